from .losses import contrastive_loss as contrastive_loss
from .model import SpklipConfig as SpklipConfig
from .model import SpklipModel as SpklipModel
from .model import SpklipOutput as SpklipOutput
from .model import build_tokenizer as build_tokenizer
from .recipe import Recipe as Recipe
from .recipe import read_recipe as read_recipe
