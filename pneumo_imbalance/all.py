"Everything the rooms export, in the direction in which data flows: `from pneumo_imbalance.all import *`."
from .phantom import *
from .data import *
from .plot import *
from .split import *
from .audit import *
from .sampling import *
from .presize import *
from .block import *
from .train import *
from .evaluate import *
from .interpret import *
from .remedy import *
from .study import *
