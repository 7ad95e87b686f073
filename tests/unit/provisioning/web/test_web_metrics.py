"""What is counted, and that no client can add a label."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY, parser

from kokon.provisioning.web.metrics import CODES_LIMIT, CONTENT_TYPE, Metrics
from kokon.provisioning.web.pool import NOTES

ROUTE = "get-resource"


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = parser.text_string_to_metric_families(metrics.render().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_everything_is_counted() -> None:
    metrics = Metrics([ROUTE])
    metrics.request(ROUTE, 200, 0.003)
    metrics.request(ROUTE, 200, 0.2)
    metrics.handshake("snp", "granted")
    metrics.release()
    metrics.denial("measurement-unknown")
    metrics.commit(7, 0.02)
    metrics.connection_event("idle-timeout")
    metrics.watch_policies(lambda: 2)
    metrics.watch(lambda: 12, lambda: 3)
    found = samples(metrics)
    assert found["kokon_http_requests_total", (("operation", ROUTE), ("status", "200"))] == 2
    assert found["kokon_http_request_seconds_bucket", (("le", "0.005"), ("operation", ROUTE))] == 1
    assert found["kokon_http_request_seconds_sum", (("operation", ROUTE),)] == 0.203
    assert found["kokon_handshakes_total", (("outcome", "granted"), ("tee", "snp"))] == 1
    assert found["kokon_releases_total", ()] == 1
    assert found["kokon_denials_total", (("code", "measurement-unknown"),)] == 1
    assert found["kokon_commit_batch_size_bucket", (("le", "8.0"),)] == 1
    assert found["kokon_commit_batch_size_bucket", (("le", "4.0"),)] == 0
    assert found["kokon_commit_seconds_count", ()] == 1
    assert found["kokon_connection_events_total", (("event", "idle-timeout"),)] == 1
    assert found["kokon_policy_workers_lost", ()] == 2
    assert found["kokon_open_connections", ()] == 12
    assert found["kokon_requests_in_flight", ()] == 3
    assert CONTENT_TYPE.startswith("text/plain")


def test_every_note_of_the_pool_has_its_series() -> None:
    metrics = Metrics()
    for note in NOTES:
        metrics.connection_event(note)
        assert samples(metrics)["kokon_connection_events_total", (("event", note),)] == 1


def test_two_servers_share_nothing() -> None:
    one, other = Metrics(), Metrics()
    one.release()
    assert samples(other)["kokon_releases_total", ()] == 0
    assert not [family for family in REGISTRY.collect() if family.name.startswith("kokon")]


@settings(max_examples=30)
@given(st.text(max_size=30), st.integers())
def test_no_text_of_a_client_becomes_a_label(text: str, number: int) -> None:
    metrics = Metrics([ROUTE])
    before = {labels for _, labels in samples(metrics)}
    metrics.request(text, number, 0.1)
    metrics.handshake(text, text)
    metrics.denial(f"{text}\n")
    metrics.connection_event(text)
    new = {value for _, labels in samples(metrics) if labels not in before for _, value in labels}
    statuses = {str(number)} if 100 <= number < 600 else set()
    assert new <= {"other"} | statuses


def test_codes_are_words_and_only_so_many() -> None:
    metrics = Metrics()
    for number in range(CODES_LIMIT + 50):
        metrics.denial(f"code-{number}")
    for wrong in ("Upper", "a b", "a" * 65, "", "kokon_abc", "-a"):
        metrics.denial(wrong)
    counted = {
        labels[0][1]: value for (name, labels), value in samples(metrics).items() if name == "kokon_denials_total"
    }
    assert len(counted) == CODES_LIMIT + 1
    assert counted["other"] == 50 + 6
