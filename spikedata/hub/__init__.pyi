from .pulling import check_regenerated as check_regenerated
from .pulling import pull as pull
from .pushing import push_hub as push_hub
