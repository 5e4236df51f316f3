"""Canary verdicts: is the new version as good as the one it replaces? An answer that may be read at every tick.

`Comparison` takes the outcomes of both versions tick by tick and says promote, roll back or keep looking. Behind it stand
test martingales (Ville 1939; Howard, Ramdas, McAuliffe, Sekhon: "Time-uniform, nonparametric, nonasymptotic confidence
sequences", 2021; Johari, Koomen, Pekelis, Walsh: "Always valid inference", 2022; Turner, Ly, Grünwald: "Generic E-variables
for exact sequential k-sample tests", 2021; Waudby-Smith, Ramdas: "Estimating means of bounded random variables by betting",
2024): the chance that any of them ever passes `1/α` while the canary is no worse than its margin is at most `α`.
"""

from models.canary.comparison import Comparison
from models.canary.judgement import Judgement, SignalEvidence, Verdict
from models.canary.margins import Margins, Risk

__all__ = ["Comparison", "Judgement", "Margins", "Risk", "SignalEvidence", "Verdict"]
