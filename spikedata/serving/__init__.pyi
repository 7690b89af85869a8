from .server import ClipServer as ClipServer
