"""Options of `kokon provision serve` about how it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cyclopts import Parameter

from kokon.cli.hardware import Hardware, completion, read_endorsements, read_policy

if TYPE_CHECKING:
    from kokon.provisioning.core import Demands
    from kokon.provisioning.web.run import RunOptions


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """How the server answers.

    Parameters
    ----------
    dev
        Let anybody administrate, without a token. Every answer and token, and what is logged of guests, is marked.
    accept_sample
        Take sample evidence, which nobody signed. It gets nothing: only refusals can be tried with it.
    literal_statuses
        Answer guests with the statuses of the reference key broker, 401 for nearly all refusals.
    rate
        Requests that one address may make in a second, four times as many at once, and a project ten times that; more
        are told to come again later. 0: no limit, for what stands behind a proxy that limits.
    access_log
        Which requests have a line on standard error.
    """

    dev: bool = False
    accept_sample: bool = False
    literal_statuses: bool = False
    rate: float = 50.0
    access_log: Literal["all", "failures", "none"] = "failures"


SERVING = Serving()


def demands_of(hardware: Hardware, accepted: frozenset[str], serving: Serving) -> Demands:
    """What the server demands of guests; `accepted` are fingerprints of simulated roots. Raises as `read_policy`."""
    from kokon.provisioning.core import Demands
    from kokon.tee.endorsements import Endorsements

    return Demands(
        read_endorsements(hardware) | Endorsements(accepted_simulated=accepted),
        read_policy(hardware),
        completion(hardware, accepted),
        sample=serving.accept_sample,
        development=serving.dev,
    )


def run_options(serving: Serving) -> RunOptions:
    """Limits of requests and what is logged of them. Raises `UsageError` (`rate-malformed`)."""
    from kokon.provisioning.web.run import RunOptions, limits_of

    return RunOptions(limits_of(serving.rate), lines=serving.access_log)
