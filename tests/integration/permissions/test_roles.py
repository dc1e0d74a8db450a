"""The roles allow exactly the calls of the functions and jobs, and of AWS's services for them."""

import pytest

from tests.integration.permissions.check import Policies, faults, resource_faults
from tests.integration.permissions.concrete import Concrete, concrete
from tests.integration.permissions.engine import Engine
from tests.integration.permissions.recorder import Recording
from tests.integration.permissions.services import NETWORK, to_our_resources, with_our_roles
from tests.unit.variants import VARIANTS


@pytest.fixture(params=VARIANTS.keys())
def template(request: pytest.FixtureRequest) -> Concrete:
    return concrete(request.param)


def test_every_role_may_do_what_it_does_and_nothing_else(
    engine: Engine, recorded: Recording, template: Concrete
) -> None:
    calls = recorded.calls | with_our_roles(template, recorded.calls)
    assert "\n".join(map(str, faults(engine, Policies.of(template), calls, template))) == ""


def test_every_role_is_walked(recorded: Recording) -> None:
    template = concrete("with everything")
    calls = recorded.calls | with_our_roles(template, recorded.calls)
    assert {call.who for call in calls} == template.policies().keys()


def test_queues_topics_and_roles_let_in_what_is_sent_to_them_and_nothing_else(
    engine: Engine, template: Concrete
) -> None:
    assert "\n".join(map(str, resource_faults(engine, Policies.of(template), to_our_resources(template)))) == ""


def test_a_functions_code_may_not_do_what_lambda_may_with_its_role(engine: Engine, template: Concrete) -> None:
    policies = Policies.of(template)
    made = [call for call in with_our_roles(template, ()) if call.action in NETWORK]
    names = {template.role_of(f["Role"]): name for name, f in template.of_type("AWS::Lambda::Function").items()}
    questions = [
        policies.question(call, {"lambda:SourceFunctionArn": template.attribute(names[call.who], "Arn")})
        for call in made
    ]
    assert [call for call, answer in zip(made, engine.ask(questions), strict=True) if answer.allowed] == []


def test_without_tls_no_role_may_do_anything_to_bucket_queues_and_topics(
    engine: Engine, recorded: Recording, template: Concrete
) -> None:
    policies = Policies.of(template)
    calls = [
        call
        for call in recorded.calls | with_our_roles(template, recorded.calls)
        if call.who in policies.identity and call.action.startswith(("s3:", "sqs:", "sns:"))
    ]
    answers = engine.ask([policies.question(call, {"aws:SecureTransport": "false"}) for call in calls])
    assert [call for call, answer in zip(calls, answers, strict=True) if answer.allowed] == []
