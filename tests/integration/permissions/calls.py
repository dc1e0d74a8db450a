"""From an HTTP request to AWS to the rights that it needs: the actions of the Service Authorization Reference.

Two facts of S3 go beyond the action's name (S3 User Guide and API Reference):
- GET and HEAD of a missing key are answered with 404 only if the caller has `s3:ListBucket` with that key as
  `s3:prefix`; other callers get 403. Any key that is read may be missing, so each read needs both.
- A PUT or a deletion that names an ETag compares it with the object's, and so needs `s3:GetObject` as well.
"""

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

ACCOUNT = "123456789012"
REGION = "us-east-1"
_CREDENTIAL = re.compile(r"Credential=(?P<key>[^/]+)/\d{8}/(?P<region>[^/]+)/(?P<service>[^/]+)/aws4_request")
_LISTING = {"list-type", "prefix", "delimiter", "max-keys", "encoding-type", "start-after", "continuation-token"}
QUEUE_ACTIONS = {
    "ChangeMessageVisibility", "DeleteMessage", "GetQueueAttributes", "GetQueueUrl", "ReceiveMessage", "SendMessage",
}  # fmt: skip
_BATCH_ACTIONS = {"/v1/describejobs": "batch:DescribeJobs", "/v1/listjobs": "batch:ListJobs"}


class UnknownRequestError(Exception):
    """A request for which this module knows no rights."""


@dataclass(frozen=True, slots=True, order=True)
class Call:
    """One right that a caller needs: an action on a resource, with the condition keys of the request."""

    who: str
    """The role's name in the template, or an AWS service."""
    action: str
    resource: str
    context: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.who}: {self.action} on {self.resource} {dict(self.context) or ''}".rstrip()


@dataclass(frozen=True, slots=True)
class Request:
    """What was sent: `path` with its query, header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def signed(self) -> re.Match[str]:
        """The signer, and the service."""
        match = _CREDENTIAL.search(self.headers.get("authorization", ""))
        if match is None:
            raise UnknownRequestError(f"{self.method} {self.path} is not signed")
        return match

    @property
    def who(self) -> str:
        return self.signed["key"]

    @property
    def service(self) -> str:
        return self.signed["service"]


def calls_of(request: Request) -> list[Call]:
    """Return the rights that a request needs; raise UnknownRequestError if they are unknown."""
    sent = {
        "s3": _s3, "sqs": _sqs, "sns": _sns, "batch": _batch, "secretsmanager": _secret, "xray": _xray,
    }  # fmt: skip
    if request.service not in sent:
        raise UnknownRequestError(f"{request.who} calls {request.service}: {request.method} {request.path}")
    return [Call(request.who, *needed) for needed in sent[request.service](request)]


def arn(service: str, resource: str) -> str:
    return f"arn:aws:{service}:{REGION}:{ACCOUNT}:{resource}"


_Needed = tuple[str, str] | tuple[str, str, tuple[tuple[str, str], ...]]


def _s3(request: Request) -> Iterator[_Needed]:
    url = urlsplit(request.path)
    bucket, _, key = unquote(url.path).removeprefix("/").partition("/")
    query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
    lake = f"arn:aws:s3:::{bucket}"
    match request.method, bool(key):
        case "GET" | "HEAD", True if not query:
            yield from _read(lake, key)
        case "PUT", True if not query and "x-amz-copy-source" not in request.headers:
            yield "s3:PutObject", f"{lake}/{key}"
            if "if-match" in request.headers:
                yield from _read(lake, key)
        case "GET", False if query.keys() <= _LISTING:
            keys = {"s3:prefix": query.get("prefix", ""), "s3:delimiter": query.get("delimiter", "")}
            yield "s3:ListBucket", lake, tuple((name, value) for name, value in keys.items() if value)
        case "POST", False if set(query) == {"delete"}:
            for entry in ET.fromstring(request.body).iterfind("{*}Object"):  # noqa: S314 (boto's own request)
                named = entry.findtext("{*}Key", "")
                yield "s3:DeleteObject", f"{lake}/{named}"
                if entry.findtext("{*}ETag"):
                    yield from _read(lake, named)
        case _:
            raise UnknownRequestError(f"{request.who} sends S3 {request.method} {request.path}")


def _read(lake: str, key: str) -> Iterator[_Needed]:
    yield "s3:GetObject", f"{lake}/{key}"
    yield "s3:ListBucket", lake, (("s3:prefix", key),)


def _sqs(request: Request) -> Iterator[_Needed]:
    # A batch of messages needs the right of one (SQS Developer Guide, "Amazon SQS API permissions").
    operation = request.headers.get("x-amz-target", "").removeprefix("AmazonSQS.").removesuffix("Batch")
    body = json.loads(request.body)
    name = body.get("QueueName") or body.get("QueueUrl", "").rpartition("/")[2]
    if operation not in QUEUE_ACTIONS or not name:
        raise UnknownRequestError(f"{request.who} sends SQS {operation} with {body}")
    yield f"sqs:{operation}", arn("sqs", name)


def _sns(request: Request) -> Iterator[_Needed]:
    form = parse_qs(request.body.decode())
    if form["Action"][0] not in {"Publish", "PublishBatch"}:
        raise UnknownRequestError(f"{request.who} sends SNS {form['Action'][0]}")
    yield "sns:Publish", arn("sns", form["TopicArn"][0].rpartition(":")[2])


def _batch(request: Request) -> Iterator[_Needed]:
    if request.path == "/v1/submitjob":
        body = json.loads(request.body)
        yield "batch:SubmitJob", arn("batch", f"job-queue/{body['jobQueue']}")
        # If the definition is named without a revision, the documentation does not say which of the two applies.
        yield "batch:SubmitJob", arn("batch", f"job-definition/{body['jobDefinition']}")
        yield "batch:SubmitJob", arn("batch", f"job-definition/{body['jobDefinition']}:1")
    elif request.path in _BATCH_ACTIONS:
        yield _BATCH_ACTIONS[request.path], "*"
    else:
        raise UnknownRequestError(f"{request.who} sends Batch {request.path}")


def _secret(request: Request) -> Iterator[_Needed]:
    target = request.headers.get("x-amz-target", "")
    if target != "secretsmanager.GetSecretValue":
        raise UnknownRequestError(f"{request.who} sends {target}")
    yield "secretsmanager:GetSecretValue", json.loads(request.body)["SecretId"]


def _xray(request: Request) -> Iterator[_Needed]:
    if request.path != "/TraceSegments":
        raise UnknownRequestError(f"{request.who} sends X-Ray {request.path}")
    yield "xray:PutTraceSegments", "*"
