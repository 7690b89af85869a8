from .candidates import LayoutCandidate as LayoutCandidate
from .ranking import better_layout as better_layout
from .ranking import rank_layouts as rank_layouts
