import pytest

from benchmarks.servers import count_requests, cpu_counted

METRICS = """
# TYPE SeaweedFS_s3_request_total counter
SeaweedFS_s3_request_total{bucket="",code="200",type="LIST"} 1
SeaweedFS_s3_request_total{bucket="lake",code="200",type="GET"} 6
SeaweedFS_s3_request_total{bucket="lake",code="404",type="GET"} 2
SeaweedFS_s3_request_total{bucket="lake",code="200",type="PUT"} 12
SeaweedFS_s3_request_seconds_count{bucket="lake",type="GET"} 99
process_cpu_seconds_total 12.5
"""


def test_requests_are_counted_by_kind_whatever_bucket_and_answer() -> None:
    assert count_requests(METRICS) == {"list": 1, "get": 8, "put": 12}


def test_the_servers_cpu_is_what_it_says_itself() -> None:
    assert cpu_counted(METRICS) == pytest.approx(12.5)
    with pytest.raises(RuntimeError, match="does not tell"):
        cpu_counted("")
