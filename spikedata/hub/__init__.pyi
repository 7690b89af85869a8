from .fetching import check_regenerated as check_regenerated
from .fetching import fetch as fetch
from .publishing import publish as publish
