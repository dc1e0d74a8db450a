// A line of JSON in, a line of JSON out: what iam-simulate says of each request.
// { policies: [document, ...], questions: [{ principal, action, resource, account, context, identity: [index, ...],
//   resourcePolicy: index or null }] } -> [{ allowed, by: [Sid, ...] }]; `by` names the statements that allowed it.
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'

const home = createRequire(pathToFileURL(`${process.argv[2]}/package.json`))
const { runSimulation } = await import(pathToFileURL(home.resolve('@cloud-copilot/iam-simulate')))
const { createValidatedPolicy, validateIdentityPolicy, validateResourcePolicy } = await import(
  pathToFileURL(home.resolve('@cloud-copilot/iam-policy'))
)

async function answers({ policies, questions }) {
  // Each policy is checked once, not with every question.
  const checked = (validate) => policies.map((policy) => createValidatedPolicy(policy, validate))
  const identities = checked(validateIdentityPolicy)
  const resources = checked(validateResourcePolicy)
  return Promise.all(questions.map((question) => answer(question, identities, resources)))
}

async function answer(q, identities, resources) {
  const simulation = {
    request: {
      principal: q.principal,
      action: q.action,
      resource: { resource: q.resource, accountId: q.account },
      contextVariables: q.context,
    },
    identityPolicies: q.identity.map((index) => ({ name: String(index), policy: identities[index] })),
    serviceControlPolicies: [],
    resourceControlPolicies: [],
    ...(q.resourcePolicy === null ? {} : { resourcePolicy: resources[q.resourcePolicy] }),
  }
  const result = await runSimulation(simulation, {})
  if (result.resultType !== 'single') {
    throw new Error(`no answer to ${JSON.stringify(q)}: ${JSON.stringify(result)}`)
  }
  const { identityAnalysis, resourceAnalysis } = result.result.analysis
  const decisive = [...(identityAnalysis?.allowStatements ?? []), ...(resourceAnalysis?.allowStatements ?? [])]
  return { allowed: result.overallResult === 'Allowed', by: decisive.map(({ explain }) => explain.identifier) }
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await answers(JSON.parse(line)))}\n`)
}
