"""Who should serve and who should drain, and what a pod's gate says of it."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from ingress_world import endpoint_slice, pod, running_status, service
from trimtab.api import Condition, from_wire
from trimtab.api.core import PROXIED, Pod, PodStatus
from trimtab.components.ingress.attached import condition
from trimtab.components.ingress.backends import upstream
from trimtab.components.ingress.endpoints import Phase, Want, Written
from trimtab.components.ingress.routes import Backend

BACKEND = Backend("shop", "web", "80")
A = "10.0.0.1:8080"


def live(name="web-1", *, uid="u1", ip="10.0.0.1", ready=True, says=None, deleting=False, gate=True) -> Pod:
    made = pod(name, gate=gate)
    status = from_wire(Pod, {"status": running_status(ip, ready=ready)}).status
    if says:
        status = msgspec.structs.replace(
            status, conditions=[*status.conditions, Condition(type=PROXIED, status=says[0], reason=says[1])]
        )
    meta = msgspec.structs.replace(
        made.metadata,
        uid=uid,
        deletion_timestamp=datetime(2026, 1, 1, tzinfo=UTC) if deleting else None,
        deletion_grace_period_seconds=10 if deleting else None,
    )
    return msgspec.structs.replace(made, metadata=meta, status=status)


def look(*pods: Pod, written=None, slices=None, svc=None):
    if slices is None:
        slices = [endpoint_slice([(p.name, p.metadata.uid, p.status.pod_ip) for p in pods])]
    known = {(p.namespace or "", p.name): p for p in pods}
    return upstream(BACKEND, svc or service(), slices, known, written or {})


def wants(found):
    return {address: want.want for address, want in found.wanted.items()}


def test_a_gated_pod_is_announced_before_it_is_given_to_the_proxy():
    found = look(live())
    assert wants(found) == {}
    assert found.claimed == {"shop/web-1/u1"}
    assert wants(look(live(says=("Unknown", "Attaching")))) == {A: Want.SERVE}
    assert wants(look(live(says=("True", "Attached")))) == {A: Want.SERVE}
    assert wants(look(live(gate=False))) == {A: Want.SERVE}


def test_a_pod_that_is_not_ready_is_out_at_once():
    assert wants(look(live(ready=False, says=("True", "Attached")), written={A: Written(None, "shop/web-1/u1")})) == {}


def test_a_deleting_pod_drains_for_most_of_its_grace_period():
    found = look(live(deleting=True, says=("True", "Attached")), written={A: Written(None, "shop/web-1/u1")})
    assert wants(found) == {A: Want.DRAIN}
    assert found.wanted[A].drain_limit_s == 8.0


def test_a_pod_that_left_the_service_drains_and_one_that_is_gone_does_not():
    written = {A: Written(None, "shop/web-1/u1")}
    assert wants(look(live(says=("True", "Attached")), slices=[endpoint_slice([])], written=written)) == {A: Want.DRAIN}
    assert wants(look(slices=[endpoint_slice([])], written=written)) == {}
    reborn = live(uid="u2", says=("True", "Attached"))
    assert wants(look(reborn, slices=[endpoint_slice([])], written=written)) == {}


def test_an_address_without_a_pod_goes_by_its_slice():
    slice_ = endpoint_slice([("x", "u", "10.0.0.9")])
    slice_.endpoints[0].target_ref = None
    slice_.endpoints[0].conditions.ready = None
    assert wants(look(slices=[slice_])) == {"10.0.0.9:8080": Want.SERVE}
    slice_.endpoints[0].conditions.terminating = True
    assert wants(look(slices=[slice_], written={"10.0.0.9:8080": Written()})) == {"10.0.0.9:8080": Want.DRAIN}


def test_what_can_never_serve_is_told():
    assert upstream(BACKEND, None, [], {}, {}).problem == (
        "ServiceMissing",
        "Service shop/web does not exist; create it or change the backend",
    )
    found = upstream(Backend("shop", "web", "https"), service(), [], {}, {})
    assert found.problem == (
        "PortMissing",
        "Service shop/web has no port https (it has http); change the backend",
    )


def test_http2_by_app_protocol():
    assert look(live(), svc=service(app_protocol="kubernetes.io/h2c")).http2
    assert not look(live()).http2


def says(pod, phases, *, wanted=True):
    found = condition(pod, phases, wanted=wanted)
    return found and (found.status, found.reason)


def test_the_gate_opens_on_the_proxys_word_alone():
    assert says(live(), []) == ("Unknown", "Attaching")
    announced = live(says=("Unknown", "Attaching"))
    assert says(announced, []) is None
    assert says(announced, [Phase.ATTACHING]) is None
    assert says(announced, [Phase.UP, Phase.ATTACHING]) is None
    assert says(announced, [Phase.UP, Phase.UP]) == ("True", "Attached")


def test_the_gate_closes_only_when_nothing_is_left():
    deleting = live(says=("True", "Attached"), deleting=True)
    assert says(deleting, [Phase.DRAINING]) is None
    assert says(deleting, [Phase.GONE, Phase.LEAVING]) is None
    assert says(deleting, [Phase.GONE]) == ("False", "Detached")
    assert says(deleting, []) == ("False", "Detached")
    assert says(live(deleting=True), []) is None


def test_a_crash_closes_the_gate_and_a_recovery_announces_again():
    crashed = live(ready=False, says=("True", "Attached"))
    assert says(crashed, [Phase.LEAVING]) is None
    assert says(crashed, [Phase.GONE]) == ("False", "ContainersNotReady")
    assert says(live(says=("False", "ContainersNotReady")), []) == ("Unknown", "Attaching")


def test_a_pod_behind_no_ingress_need_not_wait():
    assert says(live(), [], wanted=False) == ("True", "NotProxied")
    assert says(live(says=("True", "Attached")), [Phase.DRAINING], wanted=False) is None


def test_a_pod_without_a_status_says_nothing():
    assert says(msgspec.structs.replace(live(), status=PodStatus()), []) is None
