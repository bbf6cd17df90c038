# Types of the public names for editors and type checkers; nothing imports this file.
from tunesmith._version import __version__ as __version__
from tunesmith.api import read_report as read_report
from tunesmith.errors import TunesmithError as TunesmithError
from tunesmith.hookspecs import hookimpl as hookimpl
from tunesmith_python.callback import VerdictCallback as VerdictCallback
from tunesmith_python.evaluation import evaluate as evaluate
from tunesmith_python.plans import check as check
from tunesmith_python.plans import estimate as estimate
from tunesmith_python.plans import make_plan as make_plan
from tunesmith_python.runs import Run as Run
from tunesmith_python.runs import open_run as open_run
from tunesmith_python.runs import resume as resume
from tunesmith_python.runs import run as run
from tunesmith_python.verdict import verdict as verdict
