from .hub import check_regenerated as check_regenerated
from .hub import fetch as fetch
from .hub import publish as publish
