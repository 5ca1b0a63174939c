//! What is admitted and what it means, what is refused and with which words, and that neither can hurt.

use std::thread;

use proptest::prelude::*;

use super::functions::{FUNCTIONS, MACROS};
use super::*;

pub(super) const NOW: Timestamp = Timestamp::from_seconds(1_700_000_000);

const GITHUB: &str = r#"{
    "iss": "https://token.actions.githubusercontent.com", "aud": ["sallyport", "other"],
    "sub": "repo:acme/api:ref:refs/heads/main", "repository": "acme/api", "repository_owner": "acme",
    "repository_owner_id": "4711", "ref": "refs/heads/main", "ref_protected": "true", "run_attempt": "1",
    "job_workflow_ref": "acme/api/.github/workflows/release.yml@refs/heads/main",
    "exp": 1700000300, "iat": 1699999990, "actor_ip": "203.0.113.9"
}"#;
const GITLAB: &str = r#"{
    "iss": "https://gitlab.com", "sub": "project_path:acme/api:ref_type:branch:ref:main", "project_id": 22,
    "project_path": "acme/api", "namespace_id": 72, "ref": "main", "ref_protected": "true", "deployment_tier": null,
    "groups_direct": ["acme/ops", "acme/dev"], "exp": 1700000300, "score": 0.5, "big": 18446744073709551615
}"#;
const HCP: &str = r#"{
    "sub": "organization:acme:project:p:workspace:prod:run_phase:apply", "terraform_run_phase": "apply",
    "terraform_organization_name": "acme", "terraform_workspace_name": "prod"
}"#;
const AWS: &str = r#"{
    "sub": "arn:aws:iam::123456789012:role/deploy",
    "https://sts.amazonaws.com/": {
        "aws_account": "123456789012", "org_id": "o-1", "principal_tags": {"team": "ops"},
        "lambda_source_function_arn": "arn:aws:lambda:eu-west-1:123456789012:function:f"
    }
}"#;
const SPIFFE: &str = r#"{"sub": "spiffe://prod.example/ns/payments/sa/api", "aud": "x", "exp": 1700000300}"#;
const KUBERNETES: &str = r#"{
    "sub": "system:serviceaccount:prod:api",
    "kubernetes.io": {"namespace": "prod", "serviceaccount": {"name": "api", "uid": "u"}, "pods": [{"name": "a"}, {"name": "b"}]}
}"#;

fn claims(json: &str) -> Claims {
    Claims::parse(json.as_bytes()).unwrap()
}

fn compile(source: &str) -> Condition {
    Condition::compile("condition", source).unwrap_or_else(|error| panic!("{source}: {error}"))
}

fn refusal(source: &str) -> String {
    let error = Condition::compile("condition", source).map(|c| c.cost()).expect_err(source);
    assert_eq!(error.field, "condition");
    error.message
}

#[test]
fn admitted_conditions_mean_what_cel_says() {
    let table: &[(&str, &str, bool)] = &[
        // GitHub
        (GITHUB, "claims.repository == 'acme/api'", true),
        (GITHUB, "claims.repository == 'acme/api' && claims.ref == 'refs/heads/main'", true),
        (GITHUB, "claims.repository == 'acme/api' && has(claims.environment) && claims.environment == 'prod'", false),
        (GITHUB, "claims.job_workflow_ref.startsWith('acme/api/.github/workflows/release.yml@')", true),
        (GITHUB, "claims.repository_owner_id in ['4711', '4712']", true),
        (GITHUB, "'sallyport' in claims.aud", true),
        (GITHUB, "claims.aud.exists(a, a == 'other')", true),
        (GITHUB, "claims.aud.all(a, a.size() > 3) && size(claims.aud) == 2", true),
        (GITHUB, "claims.aud == ['sallyport', 'other'] && ['sallyport', 'other'] == claims.aud", true),
        (GITHUB, "['sallyport', 'x'] != claims.aud", true),
        (GITHUB, "claims.ref.matches('^refs/heads/(main|release/.*)$')", true),
        (GITHUB, "matches(claims.ref, 'heads')", true),
        (GITHUB, "claims.ref.glob('refs/heads/*')", true),
        (GITHUB, "claims.sub.glob('repo:acme/*:ref:**')", true),
        (GITHUB, "claims.sub.glob('repo:acme/*')", false),
        (GITHUB, "claims.repository.split('/')[0] == 'acme'", true),
        (GITHUB, "claims.repository.upperAscii().lowerAscii() == claims.repository", true),
        (GITHUB, "claims.actor_ip.inCidr('203.0.113.0/24')", true),
        (GITHUB, "cidr('10.0.0.0/8').containsIP(claims.actor_ip)", false),
        (GITHUB, "int(claims.run_attempt) < 3", true),
        (GITHUB, "claims.?environment.orValue('none') == 'none'", true),
        (GITHUB, "claims[?'environment'].hasValue()", false),
        (GITHUB, "claims.?environment.or(claims.?ref).value() == 'refs/heads/main'", true),
        (
            GITHUB,
            "{'acme/api': 'refs/heads/main', 'acme/web': 'refs/heads/dev'}[claims.repository] == claims.ref",
            true,
        ),
        (GITHUB, "claims.repository in {'acme/api': true}", true),
        (GITHUB, "claims.repository == 'acme/api' ? claims.ref_protected == 'true' : false", true),
        (GITHUB, "\n\tclaims.repository\n\t\t== 'acme/api' // the repository\n", true),
        // Strings are not booleans: GitHub and GitLab say "true".
        (GITHUB, "claims.ref_protected == true", false),
        (GITHUB, "bool(claims.ref_protected)", true),
        (GITLAB, "claims.ref_protected == 'true' && claims.project_path == 'acme/api'", true),
        (GITLAB, "claims.project_id == 22 && claims.namespace_id in [71, 72]", true),
        (GITLAB, "claims.project_id == '22'", false),
        (GITLAB, "string(claims.project_id) == '22' && type(claims.project_id) == int", true),
        (GITLAB, "claims.groups_direct.exists_one(g, g.startsWith('acme/ops'))", true),
        (GITLAB, "claims.groups_direct.existsOne(g, g.startsWith('acme/'))", false),
        (GITLAB, "claims.groups_direct.filter(g, g.endsWith('ops')) == ['acme/ops']", true),
        (GITLAB, "claims.groups_direct.map(g, g.split('/')[1]).exists(n, n == 'dev')", true),
        (GITLAB, "claims.groups_direct.map(g, g.endsWith('ops'), g.size()) == [8]", true),
        (GITLAB, "claims.groups_direct + ['x'] == ['acme/ops', 'acme/dev', 'x']", true),
        (GITLAB, "claims.deployment_tier == null", true),
        (GITLAB, "claims.score < 0.75 && double(claims.project_id) == 22.0", true),
        (GITLAB, "claims.big > 1 && type(claims.big) == double", true),
        // Time. Integers in claims are `int`.
        (GITLAB, "claims.exp + 60 > 0", true),
        (GITLAB, "timestamp(claims.exp) > now", true),
        (GITLAB, "timestamp(claims.exp) - now < duration('10m')", true),
        (GITLAB, "now.getFullYear() == 2023 && now.getMonth() == 10 && now.getDate() == 14", true),
        (GITLAB, "now.getDayOfMonth() == 13 && now.getDayOfWeek() == 2 && now.getDayOfYear() == 317", true),
        (GITLAB, "now.getHours('Europe/Berlin') == 23 && now.getHours() == 22", true),
        (GITLAB, "now.getMinutes() == 13 && now.getSeconds() == 20 && now.getMilliseconds() == 0", true),
        (GITLAB, "now > timestamp('2023-01-01T00:00:00Z')", true),
        // HCP Terraform
        (HCP, "claims.terraform_organization_name == 'acme' && claims.terraform_workspace_name == 'prod'", true),
        (HCP, "claims.terraform_run_phase == \"apply\" && claims.sub.contains(':workspace:prod:')", true),
        // AWS
        (AWS, r#"claims["https://sts.amazonaws.com/"]["aws_account"] == "123456789012""#, true),
        (AWS, r#"claims["https://sts.amazonaws.com/"].principal_tags.team == "ops""#, true),
        (AWS, r#"has(claims["https://sts.amazonaws.com/"].org_id)"#, true),
        (AWS, r#"'team' in claims["https://sts.amazonaws.com/"].principal_tags"#, true),
        (AWS, r#"claims["https://sts.amazonaws.com/"].principal_tags.all(k, k == 'team')"#, true),
        (AWS, r#"claims["https://sts.amazonaws.com/"] == claims['https://sts.amazonaws.com/']"#, true),
        (AWS, r#"claims["https://sts.amazonaws.com/"] != claims['https://sts.amazonaws.com/'].principal_tags"#, true),
        (AWS, "claims.sub == 'arn:aws:iam::123456789012:role/deploy'", true),
        // SPIFFE
        (SPIFFE, "url(claims.sub).path == '/ns/payments/sa/api'", true),
        (SPIFFE, "url(claims.sub).path.startsWith('/ns/payments/')", true),
        (SPIFFE, "url(claims.sub).host == 'prod.example' && url(claims.sub).scheme == 'spiffe'", true),
        (
            SPIFFE,
            "url(claims.sub).getPath() == '/ns/payments/sa/api' && url(claims.sub).getHost() == 'prod.example'",
            true,
        ),
        (
            SPIFFE,
            "url(claims.sub).getScheme() == 'spiffe' && url(claims.sub).port == '' && url(claims.sub).query == ''",
            true,
        ),
        // Kubernetes
        (KUBERNETES, "claims['kubernetes.io'].namespace == 'prod'", true),
        (KUBERNETES, "claims['kubernetes.io'].serviceaccount.name == 'api'", true),
        (
            KUBERNETES,
            "claims['kubernetes.io'].pods.exists(p, p.name == 'b') && claims['kubernetes.io'].pods[0].name == 'a'",
            true,
        ),
        (KUBERNETES, "claims['kubernetes.io'].pods[0] in claims['kubernetes.io'].pods", true),
        (KUBERNETES, "claims['kubernetes.io'].pods.map(p, p.name) == ['a', 'b']", true),
        (KUBERNETES, "size(claims['kubernetes.io'].serviceaccount) == 2 && dyn(1) == 1.0", true),
        // Errors are absorbed by what decides without them.
        (GITHUB, "claims.missing == 'x' || true", true),
        (GITHUB, "claims.missing == 'x' && false", false),
        (GITHUB, "claims.missing == 'x' || claims.repository == 'acme/api'", true),
        (GITHUB, "has(claims.missing)", false),
        (GITHUB, "!has(claims.missing)", true),
        (GITHUB, "claims.aud.exists(a, a == 'sallyport' || a.nothing == 1)", true),
        // Unicode is counted in characters.
        (r#"{"sub": "é"}"#, "size(claims.sub) == 1 && claims.sub == '\\u00e9'", true),
        (r#"{"admin": true}"#, "claims.admin", true),
    ];
    for (json, source, expected) in table {
        assert_eq!(compile(source).evaluate(&claims(json), NOW), Ok(*expected), "{source}");
    }
}

#[test]
fn errors_at_run_time_name_the_claim() {
    let table: &[(&str, &str, &str)] = &[
        (GITHUB, "claims.environment == 'prod'", "claim `environment` is not in this token"),
        (GITHUB, "has(claims.missing.deeper)", "claim `missing` is not in this token"),
        (
            GITHUB,
            "claims.environment == 'prod' && claims.repository == 'acme/api'",
            "claim `environment` is not in this token",
        ),
        (GITHUB, "'x' in claims.groups", "claim `groups` is not in this token"),
        (
            GITHUB,
            "claims['https://sts.amazonaws.com/'].x == 1",
            "claim `https://sts.amazonaws.com/` is not in this token",
        ),
        (
            AWS,
            "claims['https://sts.amazonaws.com/'].org == 'o'",
            "claim `[\"https://sts.amazonaws.com/\"].org` is not in this token",
        ),
        (KUBERNETES, "claims['kubernetes.io'].pods.exists(p, p.uid == 'b')", "there is no member `uid`"),
        (KUBERNETES, "claims['kubernetes.io'].pods[7].name == 'b'", "the list has no element 7"),
        (GITHUB, "claims.ref < 5", "`<` does not work on string and int"),
        (GITHUB, "claims.ref.deeper == 5", "a member was read from a value of type string, which has none"),
        (GITHUB, "claims.ref + 5 == 6", "`+` does not work on a string and a number"),
        (GITHUB, "claims.ref", "the condition gave a string, not true or false"),
        (GITHUB, "claims.aud", "the condition gave a list, not true or false"),
        (GITHUB, "claims.aud.startsWith('x')", "`startsWith` does not work on list and string"),
        (GITHUB, "claims.aud[0] || true == false", "`||` does not work on string and bool"),
        (GITHUB, "1 / (claims.exp - claims.exp) == 1", "division by zero"),
        (GITHUB, "claims.exp * 9223372036854775807 > 0", "a number is out of range"),
        (GITHUB, "url(claims.ref).path == ''", "`url`: not a URL of the form scheme://host/path"),
        (SPIFFE, "url(claims.sub).fragment == ''", "`url`: a URL has scheme, host, port, path and query"),
        (GITHUB, "claims.ref.inCidr('10.0.0.0/8')", "`inCidr`: the text is not an IP address"),
        (GITHUB, "int(claims.ref) == 1", "`int`: string parse error: invalid digit found in string"),
        (GITHUB, "claims.ref.all(x, x == '')", "expected iterable, found string"),
        (GITHUB, "{'a': 1}[claims.ref] == 1", "there is no member `refs/heads/main`"),
        // Lists where only scalars fit: the evaluator's own errors would hold all of them, and take as long to make.
        (GITHUB, "claims.aud - 1 == 0", "`-` does not work on list"),
        (GITHUB, "claims.exp * claims.aud == 0", "`*` does not work on list"),
        (GITHUB, "1 / claims.aud == 0", "`/` does not work on list"),
        (GITHUB, "claims % 2 == 0", "`%` does not work on map"),
        (GITHUB, "claims.ref < claims.aud", "`<` does not work on list"),
        (GITHUB, "[1, 2] >= claims.exp", "`>=` does not work on list"),
        (GITHUB, "'a' + claims.aud == 'ab'", "`+` does not work on list"),
        (GITHUB, "claims.aud[claims.aud] == ''", "`[]` does not work on list"),
        (GITHUB, "claims.aud[0.5] == ''", "`[]`: the number is no whole number"),
        (GITHUB, "claims.aud[1e300] == ''", "`[]`: the number is no whole number"),
        (GITHUB, "{'a': 1}[claims.aud] == 1", "`[]` does not work on list"),
        (GITHUB, "claims.aud in {'a': 1}", "`in` does not work on list and map"),
        (GITHUB, "claims.aud in claims", "`in` does not work on list and map"),
    ];
    for (json, source, expected) in table {
        assert_eq!(compile(source).evaluate(&claims(json), NOW), Err((*expected).to_owned()), "{source}");
    }
    let long = format!(r#"{{"a":"\\n{}"}}"#, "é".repeat(2_000));
    for source in ["{'a': 1}[claims.a] == 1", "claims.a + 1 == 2", "timestamp(claims.a) > now", "claims.a.matches('x')"]
    {
        let error = compile(source).evaluate(&claims(&long), NOW).unwrap_err();
        assert!(error.len() <= explain::LENGTH_MAX, "{source}: {} bytes", error.len());
        assert!(!error.contains(char::is_control), "{source}: {error:?}");
    }
}

#[test]
fn refused_expressions_say_why() {
    let table: &[(&str, &str)] = &[
        ("", "must not be empty"),
        (" \n", "must not be empty"),
        ("claims.a == '\u{1b}'", "contains the control character U+001B"),
        (
            "claims.a == 'x' &&",
            "syntax error at line 1, column 19: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}",
        ),
        ("claims.a ==\n  = 'x'", "syntax error at line 2, column 3: token recognition error at: '= '"),
        ("environment == 'prod'", "there is no variable `environment`; did you mean `claims.environment`?"),
        ("claim.sub == 'x'", "there is no variable `claim`; did you mean `claims`?"),
        ("assertion.sub == 'x'", "there is no variable `assertion`; did you mean `claims.assertion`?"),
        ("claims.aud.exists(audience, audienc == 'x')", "there is no variable `audienc`; did you mean `audience`?"),
        (".claims.sub == 'x'", "there is no variable `.claims`; did you mean `claims`?"),
        ("claims.ref.startWith('x')", "there is no function `startWith`; did you mean `startsWith`?"),
        ("claims.ref.StartsWith('x')", "there is no function `StartsWith`; did you mean `startsWith`?"),
        ("claims.ref.toLowerCase() == 'x'", "there is no function `toLowerCase`; did you mean `lowerAscii`?"),
        ("claims.ref.replace('a', 'b') == 'x'", "there is no function `replace`"),
        ("['a'].join() == 'a'", "there is no function `join`"),
        ("'%s'.format(['a']) == 'a'", "there is no function `format`"),
        ("lists.range(1000000).size() > 0", "there is no function `range`"),
        ("frobnicate(1)", "there is no function `frobnicate`"),
        ("startsWith(claims.ref, 'x')", "`startsWith` is written as text.startsWith('prefix')"),
        ("claims.ref.startsWith()", "`startsWith` is written as text.startsWith('prefix')"),
        ("has(claims.a, claims.b)", "`has` is written as has(claims.x)"),
        ("claims.a.exists(i, v, v == 'x')", "`exists` is written as list.exists(x, test)"),
        ("has(claims)", "syntax error at line 1, column 5: invalid argument to has() macro"),
        (
            "claims.?a.optMap(v, v == 1).orValue(false)",
            "`optMap`, `optFlatMap` and loops with two variables are not supported",
        ),
        (
            "claims.ref.matches(claims.pattern)",
            "`matches` needs its pattern as a literal, as in text.matches('pattern')",
        ),
        ("claims.ref.matches('(')", "the pattern of `matches` is not valid: unclosed group"),
        (
            "claims.ref.matches('(a{0,100}){0,100}')",
            "the pattern of `matches` is too large; use fewer or smaller repetitions",
        ),
        ("claims.ref.matches('(?=a)')", "the pattern of `matches` contains a group or flag that RE2 does not have"),
        ("claims.ref.glob('{a,b}')", "the pattern of `glob` contains `{`; only `*`, `**` and `?` are special"),
        ("claims.ip.inCidr('10.0.0.1/8')", "'10.0.0.1/8' has host bits set; the network is 10.0.0.0/8"),
        ("cidr(claims.net).containsIP('10.0.0.1')", "`cidr` needs its network as a literal, as in cidr('10.0.0.0/8')"),
        ("'x'", "gives a string; a condition must give true or false"),
        ("1 + 1", "gives a number; a condition must give true or false"),
        ("claims.exp + 60", "gives a number; a condition must give true or false"),
        ("now", "gives a timestamp; a condition must give true or false"),
        ("now + duration('1m')", "gives a timestamp; a condition must give true or false"),
        ("claims", "gives a map; a condition must give true or false"),
        ("[claims.a]", "gives a list; a condition must give true or false"),
        ("claims.ref.split('/')", "gives a list; a condition must give true or false"),
        ("claims.a.map(x, x)", "gives a list; a condition must give true or false"),
        ("url(claims.sub)", "gives a URL; a condition must give true or false"),
        ("string", "gives a type; a condition must give true or false"),
        ("claims.?a", "gives an optional value; a condition must give true or false"),
        ("'x' || true", "uses `||` on a string; it needs true or false"),
        ("claims.a == 'x' || 'y'", "uses `||` on a string; it needs true or false"),
        ("claims.a == 'x' && 1", "uses `&&` on a number; it needs true or false"),
        ("!'x'", "uses `!` on a string; it needs true or false"),
        ("'x' ? true : false", "uses `?` on a string; it needs true or false"),
        ("claims.a.all(x, 'y')", "uses `&&` on a string; it needs true or false"),
        ("google.protobuf.Duration{seconds: 1} == duration('1s')", "message literals are not supported"),
        ("claims.a == b'x'", "bytes literals are not supported"),
        ("[?claims.?a] == []", "optional elements `[?x]` are not supported"),
        ("claims.a.exists(claims, claims == 'x')", "`claims` cannot name a loop variable, it has a meaning already"),
        ("5.exists(x, x == 1)", "loops over a number; only lists and maps have elements"),
        ("'abc'.exists(x, x == 'a')", "loops over a string; only lists and maps have elements"),
        (
            "claims.a.all(x, claims.b.all(y, x == y))",
            "could take 5403902 steps; at most 100000 are allowed. Loop over fewer or shorter lists",
        ),
    ];
    for (source, expected) in table {
        assert_eq!(refusal(source), *expected, "{source}");
    }
    assert_eq!(refusal(&"a".repeat(1_025)), "is 1025 bytes long; at most 1024 are allowed");
}

/// Runs on a thread with the stack of a tokio worker; a stack overflow would end the test program.
fn on_small_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    thread::Builder::new().stack_size(2 * 1024 * 1024).spawn(work).unwrap().join().unwrap()
}

/// Claims of nearly 16 KiB: 1,000 elements, a long text, an object.
fn big_claims() -> Claims {
    let list = (0..1_000).map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(",");
    let rows = (0..200).map(|n| format!("{{\"a\":{n}}}")).collect::<Vec<_>>().join(",");
    let json = format!(
        r#"{{"list":[{list}],"rows":[{rows}],"pad":"{}","text":"{}"}}"#,
        "xy".repeat(3_000),
        "ab".repeat(1_000)
    );
    assert!(json.len() <= 16 * 1024, "{}", json.len());
    claims(&json)
}

#[test]
fn hostile_expressions_are_refused_or_fit_a_small_stack() {
    on_small_stack(|| {
        let nest = |open: &str, close: &str, n: usize| format!("{}1{} == 1", open.repeat(n), close.repeat(n));
        let chain = |link: &str, n: usize| format!("claims{} == 1", link.repeat(n));
        let loops = |n: usize| {
            let list = format!("[{}]", ["1"; 20].join(","));
            let open: String = (0..n).map(|i| format!("{list}.all(v{i}, ")).collect();
            format!("{open}true{}", ")".repeat(n))
        };
        let maps = |n: usize| format!("['x']{}.size() > 0", ".map(v, v + v)".repeat(n));
        let sources = [
            nest("(", ")", 300),
            nest("(", ")", 500),
            nest("[", "]", 500),
            nest("{1:", "}", 200),
            nest("!", "", 1_000),
            nest("-", "", 1_000),
            nest("((", "))", 24),
            nest("dyn(", ")", 60),
            nest("dyn(", ")", 200),
            format!("{} == 1", ["1"; 500].join("+")),
            format!("{} == 1", ["1"; 60].join("+")),
            ["1"; 330].join("=="),
            ["true"; 160].join(" && "),
            ["true"; 160].join(" || "),
            ["claims.a == 1"; 60].join(" && "),
            format!("{}true{}", "true ? ".repeat(120), " : true".repeat(120)),
            chain(".a", 500),
            chain("[0]", 330),
            chain(".f()", 250),
            chain(".?a", 300),
            chain(".a", 60),
            loops(1),
            loops(2),
            loops(3),
            loops(4),
            loops(6),
            maps(1),
            maps(4),
            maps(5),
            maps(24),
            "claims.list.all(x, claims.list.all(y, x == y))".into(),
            "claims.list.all(x, x in claims.list)".into(),
            "claims.list.map(x, claims.pad).size() > 0".into(),
            "claims.list.map(x, claims.list).size() > 0".into(),
            "claims.list.map(x, claims.list.map(y, y)).size() > 0".into(),
            "claims.list.all(x, x.all(y, y in x))".into(),
            "claims.list.all(x, x.all(y, x == x))".into(),
            "claims.list.all(x, claims.pad.contains('q') || true)".into(),
            "claims.list.all(x, claims.text.matches('(x+x+)+y'))".into(),
            "claims.list.all(x, x.matches('(x+x+)+y') || true)".into(),
            "claims.pad.split('').size() > 0".into(),
            "claims.pad.split('x').all(p, p.split('y').all(q, q == ''))".into(),
            "claims.pad.replace('', claims.pad) == ''".into(),
            "claims.text.matches('([ab]*)*[ab]{20}c')".into(),
            "claims.text.matches('(a{0,100}){0,100}')".into(),
            "claims.text.matches('.{0,900}.{0,900}')".into(),
            format!("claims.pad{} == ''", " + claims.pad".repeat(60)),
            format!("claims.list.all(x, claims.pad{} == '')", " + claims.pad".repeat(60)),
            format!("[{}].all(x, x == 1)", ["1"; 400].join(",")),
            "claims.rows.all(r, r.a >= 0)".into(),
            "claims.rows.all(r, r in claims.rows)".into(),
            "claims.list.filter(x, x != '').filter(x, x != '').map(x, x + x).map(x, x + x).size() > 0".into(),
            "\u{1f980}".repeat(200),
            "'".repeat(1_000),
            "\\".repeat(1_000),
            "claims.".repeat(140),
            "?".repeat(1_000),
        ];
        let claims = big_claims();
        for source in sources {
            let outcome = Condition::compile("condition", &source);
            let name: String = source.chars().take(60).collect();
            if let Err(error) = &outcome {
                assert!(error.message.len() <= explain::LENGTH_MAX, "{name}: {}", error.message);
            }
            if let Ok(condition) = outcome {
                let outcome = condition.evaluate(&claims, NOW);
                assert_ne!(outcome, Err(PANICKED.to_owned()), "{name}");
            }
        }
        for refused in [nest("(", ")", 300), loops(3), maps(5), loops(6), chain(".a", 500), ["1"; 330].join("==")] {
            assert!(Condition::compile("condition", &refused).is_err(), "{refused}");
        }
        for admitted in [loops(2), maps(4), nest("dyn(", ")", 60)] {
            assert!(Condition::compile("condition", &admitted).is_ok(), "{admitted}");
        }
    });
}

/// threats.md, "Matching": CEL bombs, each with the limit that stops it.
#[test]
fn bombs_are_refused_with_the_limit_that_stops_them() {
    let nest = |open: &str, core: &str, close: &str, n: usize| format!("{}{core}{}", open.repeat(n), close.repeat(n));
    let table = [
        ("length", format!("claims.a == '{}'", "x".repeat(1_100)), "is 1114 bytes long; at most 1024 are allowed"),
        ("characters of four bytes", format!("claims.a == '{}'", "\u{1f980}".repeat(300)), "at most 1024 are allowed"),
        ("brackets", nest("(", "1", ")", 300) + " == 1", "syntax error"),
        ("lists in lists", nest("[", "1", "]", 80) + " == 1", "nests more than 64 levels deep"),
        ("maps in maps", nest("{1:", "1", "}", 80) + " == 1", "nests more than 64 levels deep"),
        ("calls in calls", nest("dyn(", "1", ")", 80) + " == 1", "nests more than 64 levels deep"),
        ("negations", nest("!dyn(", "true", ")", 70), "nests more than 64 levels deep"),
        ("ternaries", nest("true?(", "true", "):true", 66), "nests more than 64 levels deep"),
        ("a chain of sums", format!("1{} == 1", "+1".repeat(400)), "nests more than 64 levels deep"),
        ("a chain of members", format!("claims{} == 1", ".a".repeat(400)), "nests more than 64 levels deep"),
        ("a chain of indices", format!("claims{} == 1", "[0]".repeat(300)), "nests more than 64 levels deep"),
        ("a chain of calls", format!("claims.a{} == 1", ".size()".repeat(100)), "nests more than 64 levels deep"),
        ("parts", ["[].all(x,x)"; 70].join("||"), "has more than 512 parts"),
        ("loops in loops", "[1].all(a, [1].all(b, [1].all(c, true)))".into(), "nests more than 2 loops"),
        ("maps in maps of lists", "[1].map(a, [1].map(b, [1].map(c, c))) == []".into(), "nests more than 2 loops"),
        ("loops on loops", format!("[1]{}.size() == 1", ".map(x, x)".repeat(5)), "chains more than 4 loops"),
        ("a square of claims", "claims.a.all(x, claims.a.all(y, true))".into(), "steps; at most 100000 are allowed"),
        (
            "a square of a claim's own lists",
            "claims.a.all(x, x.all(y, x.all(z, true)))".into(),
            "nests more than 2 loops",
        ),
        ("membership in a loop", "claims.a.all(x, x in claims.b)".into(), "steps; at most 100000 are allowed"),
        (
            "a text for each element",
            "claims.a.map(x, claims.pad + 'x').size() == 1".into(),
            "could build a value of more than 4096 KiB",
        ),
        (
            "doubling",
            format!("[claims.a]{} == []", ".map(x, x + x)".repeat(4)),
            "could build a value of more than 4096 KiB",
        ),
        (
            "a sum of claims",
            format!("claims.a{} == []", " + claims.a".repeat(40)),
            "could build a value of more than 4096 KiB",
        ),
        (
            "repetitions of repetitions",
            "claims.a.matches('(a{0,100}){0,100}')".into(),
            "the pattern of `matches` is too large; use fewer or smaller repetitions",
        ),
        (
            "a thousand of any letter",
            "claims.a.matches('\\\\pL{1000}')".into(),
            "the pattern of `matches` is too large; use fewer or smaller repetitions",
        ),
        (
            "groups in groups",
            format!("claims.a.matches('{}')", nest("(", "a", ")", 40)),
            "the pattern of `matches` is not valid",
        ),
        (
            "a long search in a loop",
            "claims.a.all(x, claims.b.matches('(x+x+)+y'))".into(),
            "steps; at most 100000 are allowed",
        ),
        ("replace", "claims.a.replace('', claims.a) == ''".into(), "there is no function `replace`"),
        ("range", "lists.range(1000000).size() > 0".into(), "there is no function `range`"),
    ];
    let found = table.map(|(what, source, reason)| (what, reason, refusal(&source)));
    let wrong: Vec<_> = found.iter().filter(|(_, reason, message)| !message.contains(reason)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn heavy_conditions_run_on_their_own_stack_and_say_so() {
    let light = compile("claims.list.exists(x, x == '999')");
    assert!(!light.is_heavy(), "{}", light.cost());
    let heavy =
        compile("claims.list.exists(x, x.startsWith('9') && x.endsWith('9') && x.contains('9') && x.matches('^999$'))");
    assert!(heavy.is_heavy(), "{}", heavy.cost());
    for condition in [light, heavy] {
        assert_eq!(condition.evaluate(&big_claims(), NOW), Ok(true));
    }
}

/// A number that the evaluator compares with a list is written into an error together with a copy of the list; so equality
/// and membership of values of unknown types are our own.
#[test]
fn equality_of_any_two_values_is_that_of_the_language() {
    let json = r#"{
        "one": 1, "half": 0.5, "text": "1", "list": [1, [2, {"a": null}]], "same": [1.0, [2, {"a": null}]], "other": [1, [2, {"a": 0}]],
        "map": {"x": {"y": [true]}, "z": "1"}, "map2": {"z": "1", "x": {"y": [true]}}, "map3": {"z": "1", "x": {"y": [false]}},
        "none": {}, "empty": [], "nil": null
    }"#;
    let names = ["one", "half", "text", "list", "same", "other", "map", "map2", "map3", "none", "empty", "nil"];
    let equal = [("list", "same"), ("map", "map2")];
    let claims = claims(json);
    let holds = |source: &str| compile(source).evaluate(&claims, NOW);
    for a in names {
        for b in names {
            let same = a == b || equal.contains(&(a, b)) || equal.contains(&(b, a));
            assert_eq!(holds(&format!("claims.{a} == claims.{b}")), Ok(same), "{a} == {b}");
            assert_eq!(holds(&format!("claims.{a} != claims.{b}")), Ok(!same), "{a} != {b}");
            assert_eq!(holds(&format!("claims.{a} in [claims.{b}]")), Ok(same), "{a} in [{b}]");
            assert_eq!(holds(&format!("{{'m': claims.{a}}} == {{'m': claims.{b}}}")), Ok(same), "{{{a}}} == {{{b}}}");
            assert_eq!(holds(&format!("claims.?{a} == claims.?{b}")), Ok(same), "?{a} == ?{b}");
        }
    }
    let literal = "{'z': '1', 'x': {'y': [true]}}";
    for source in
        [format!("claims.map == {literal}"), format!("{literal} == claims.map"), format!("{literal} in [claims.map]")]
    {
        assert_eq!(holds(&source), Ok(true), "{source}");
    }
    assert_eq!(holds("claims.map3 == {'z': '1', 'x': {'y': [true]}}"), Ok(false));
    assert_eq!(holds("'z' in claims.map && !('y' in claims.map) && !(1 in claims.map)"), Ok(true));
}

/// Two bytes of JSON are a value, so a claim can have eight thousand of them; each takes time to copy.
#[test]
fn copies_are_counted_by_their_values() {
    let cost = |source: &str| compile(source).cost();
    let read = cost("claims.a == 1");
    for copy in
        ["[claims.a] == 1", "claims.?a == 1", "claims.a + claims.b == 1", "{'a': claims.a} == 1", "dyn(claims.a) == 1"]
    {
        assert!(cost(copy) > read + 1_600, "{copy}: {}", cost(copy));
    }
    for refused in [
        "claims.list.all(x, [claims][0].list == 0 || true)",
        "claims.list.all(x, claims.?list == 0 || true)",
        "claims.list.all(x, claims.list + claims.list == 0 || true)",
    ] {
        assert!(refusal(refused).starts_with("could take "), "{refused}");
    }
    let times =
        |source: &str, count: usize| format!("claims.list.all(x, {}true)", format!("{source} || ").repeat(count));
    // Not only lists: reading a long text as a duration, or looking one up.
    assert!(refusal(&times("duration(claims.text) == duration('1s')", 1)).starts_with("could take "));
    assert!(refusal(&times("claims[claims.text] == 1", 25)).starts_with("could take "));
}

#[test]
fn is_shared_between_threads_and_prints_its_source() {
    fn shared<T: Send + Sync>(_: &T) {}
    let condition = compile("claims.a == 1");
    shared(&condition);
    assert_eq!(condition.source(), "claims.a == 1");
    assert!(format!("{condition:?}").contains("claims.a == 1"));
}

#[test]
fn objects_with_too_many_members_are_not_looped_over() {
    let members = (0..1_001).map(|n| format!("\"{n}\":0")).collect::<Vec<_>>().join(",");
    let outcome = compile("claims.all(k, k != '')").evaluate(&claims(&format!("{{{members}}}")), NOW);
    assert_eq!(outcome, Err("expected iterable, found map".into()));
}

#[test]
fn texts_too_long_to_match_are_an_error() {
    let text = "a".repeat(MATCH_INPUT_MAX + 1);
    let outcome = compile("claims.a.matches('a')").evaluate(&claims(&format!(r#"{{"a":"{text}"}}"#)), NOW);
    assert_eq!(outcome, Err("`matches`: the text is 2049 bytes long; at most 2048 can be matched".into()));
}

#[test]
fn urls_that_two_parsers_read_differently_are_errors() {
    for bad in [
        "urn:x",
        "://h/p",
        "1s://h",
        "s://u@h/p",
        "s://h/a/../b",
        "s://h/a/%2e%2E/b",
        "s://h/.",
        "s://h/a b",
        "s://h\\@x/p",
        "",
    ] {
        assert!(functions::Url::parse(bad).is_err(), "{bad}");
    }
    let json = r#"{"u": "HTTPS://User.Example:8443/a%2Fb?x=1#f", "v": "s://[::1]/p", "w": "s://h"}"#;
    for source in [
        "url(claims.u).host == 'user.example' && url(claims.u).port == '8443' && url(claims.u).scheme == 'https'",
        "url(claims.u).path == '/a%2Fb' && url(claims.u).query == 'x=1'",
        "url(claims.v).host == '[::1]' && url(claims.w).path == '' && url(claims.w).host == 'h'",
    ] {
        assert_eq!(compile(source).evaluate(&claims(json), NOW), Ok(true), "{source}");
    }
}

#[test]
fn branches_show_what_each_alternative_pins() {
    let path = |name: &str| name.split('/').map(str::to_owned).collect::<Vec<_>>();
    let string = |text: &str| Literal::String(text.into());
    let equals = |name: &str, literal: Literal| SimpleTest::Equals { claim: path(name), literal };
    let table = [
        ("claims.a == 'x'", vec![vec![equals("a", string("x"))]]),
        ("('x') == (claims['a'].b)", vec![vec![equals("a/b", string("x"))]]),
        ("claims.a", vec![vec![equals("a", Literal::Bool(true))]]),
        ("!claims.a['b']", vec![vec![equals("a/b", Literal::Bool(false))]]),
        (
            "string(claims.id) == '7' && claims.id == 7",
            vec![vec![equals("id", string("7")), equals("id", Literal::Int(7))]],
        ),
        ("claims.a == null", vec![vec![equals("a", Literal::Other)]]),
        ("claims.a == claims.b || claims.a != 'x'", vec![vec![SimpleTest::Other], vec![SimpleTest::Other]]),
        (
            "claims.a == 'x' && (claims.b == 1 || claims.c in ['y', 2])",
            vec![
                vec![equals("a", string("x")), equals("b", Literal::Int(1))],
                vec![
                    equals("a", string("x")),
                    SimpleTest::In { claim: path("c"), literals: vec![string("y"), Literal::Int(2)] },
                ],
            ],
        ),
        (
            "claims.a.startsWith('p/') && claims.a.endsWith('s') && claims.a.contains('c')",
            vec![vec![
                SimpleTest::StartsWith { claim: path("a"), prefix: "p/".into() },
                SimpleTest::EndsWith { claim: path("a"), suffix: "s".into() },
                SimpleTest::Contains { claim: path("a"), part: "c".into() },
            ]],
        ),
        (
            "has(claims.a.b) && claims.a.b.matches('^x$') && matches(claims.a.c, 'y') && claims.d.glob('z/*')",
            vec![vec![
                SimpleTest::Has { claim: path("a/b") },
                SimpleTest::Matches { claim: path("a/b"), pattern: "^x$".into() },
                SimpleTest::Matches { claim: path("a/c"), pattern: "y".into() },
                SimpleTest::Glob { claim: path("d"), pattern: "z/*".into() },
            ]],
        ),
        ("'x' in claims.groups", vec![vec![SimpleTest::Includes { claim: path("groups"), literal: string("x") }]]),
        ("claims.a == 'x' || false", vec![vec![equals("a", string("x"))]]),
        ("claims.a == 'x' || true", vec![vec![equals("a", string("x"))], vec![SimpleTest::Other]]),
        ("false", vec![vec![SimpleTest::Other]]),
        ("!(claims.a == 'x')", vec![vec![SimpleTest::Other]]),
        ("int(claims.id) == 7", vec![vec![SimpleTest::Other]]),
        ("claims.?a.orValue('x') == 'x'", vec![vec![SimpleTest::Other]]),
        ("claims.a.lowerAscii() == 'x'", vec![vec![SimpleTest::Other]]),
        ("claims.l.exists(x, x == 'y')", vec![vec![SimpleTest::Other]]),
        ("claims == 1", vec![vec![SimpleTest::Other]]),
        (
            "claims.a == 'x' ? claims.b == 'y' : claims.c == 'z'",
            vec![
                vec![equals("a", string("x")), equals("b", string("y"))],
                vec![SimpleTest::Other, equals("c", string("z"))],
            ],
        ),
    ];
    for (source, expected) in table {
        let branches = compile(source).branches();
        assert_eq!(branches, expected, "{source}");
        assert!(branches.iter().flatten().all(|test| test.claim().is_none() == (*test == SimpleTest::Other)));
    }
    let wide = ["(claims.a == 1 || claims.b == 2)"; 7].join(" && ");
    assert_eq!(compile(&wide).branches(), vec![vec![SimpleTest::Other]]);
}

/// Each function and macro, in a condition that holds: what `docs/conditions.md` says works.
const WORKING: &[(&str, &str)] = &[
    ("has", "has(claims.sub) && !has(claims.nothing)"),
    ("all", "[1, 2].all(x, x > 0)"),
    ("exists", "[1, 2].exists(x, x == 2)"),
    ("exists_one", "[1, 2].exists_one(x, x == 2)"),
    ("existsOne", "[1, 2].existsOne(x, x == 2)"),
    ("map", "[1, 2].map(x, x * 2) == [2, 4] && [1, 2].map(x, x > 1, x * 2) == [4]"),
    ("filter", "[1, 2].filter(x, x > 1) == [2]"),
    ("size", "size('é') == 1 && [1].size() == 1 && size({'a': 1}) == 1"),
    ("contains", "'abc'.contains('b')"),
    ("startsWith", "'abc'.startsWith('ab')"),
    ("endsWith", "'abc'.endsWith('bc')"),
    ("matches", "'abc'.matches('b') && !matches('abc', '^b')"),
    ("glob", "'a/b'.glob('a/*') && !'a/b/c'.glob('a/*') && 'a/b/c'.glob('a/**')"),
    ("lowerAscii", "'ABC'.lowerAscii() == 'abc'"),
    ("upperAscii", "'abc'.upperAscii() == 'ABC'"),
    ("split", "'a/b'.split('/') == ['a', 'b'] && 'ab'.split('') == ['a', 'b']"),
    ("inCidr", "'10.1.2.3'.inCidr('10.0.0.0/8')"),
    ("cidr", "cidr('2001:db8::/32').containsIP('2001:db8::1')"),
    ("containsIP", "!cidr('10.0.0.0/8').containsIP('11.0.0.1')"),
    ("url", "url('spiffe://td/ns/x').path == '/ns/x'"),
    ("getScheme", "url('https://h/p').getScheme() == 'https'"),
    ("getHost", "url('https://h/p').getHost() == 'h'"),
    ("getPath", "url('https://h/p').getPath() == '/p'"),
    ("bool", "bool('true')"),
    ("int", "int('7') == 7 && int(7.9) == 7"),
    ("double", "double('0.5') == 0.5"),
    ("string", "string(7) == '7' && string(true) == 'true'"),
    ("timestamp", "timestamp(1700000000) == timestamp('2023-11-14T22:13:20Z')"),
    ("duration", "duration('90s') == duration('1m30s')"),
    ("type", "type('x') == string && type([]) == list"),
    ("dyn", "dyn(1) == 1.0"),
    ("getFullYear", "now.getFullYear() == 2023"),
    ("getMonth", "now.getMonth() == 10"),
    ("getDate", "now.getDate() == 14"),
    ("getDayOfMonth", "now.getDayOfMonth() == 13"),
    ("getDayOfWeek", "now.getDayOfWeek() == 2"),
    ("getDayOfYear", "now.getDayOfYear() == 317"),
    ("getHours", "now.getHours('Europe/Berlin') == 23 && duration('2h').getHours() == 2"),
    ("getMinutes", "now.getMinutes() == 13"),
    ("getSeconds", "now.getSeconds() == 20"),
    ("getMilliseconds", "now.getMilliseconds() == 0"),
    ("orValue", "claims.?nothing.orValue('d') == 'd'"),
    ("hasValue", "claims.?sub.hasValue()"),
    ("or", "claims.?nothing.or(claims.?sub).hasValue()"),
    ("value", "claims.?sub.value() == 's'"),
];

#[test]
fn every_function_works_and_is_documented() {
    let documentation = include_str!("../../../../docs/conditions.md");
    let names: Vec<&str> = FUNCTIONS.iter().map(|f| f.name).chain(MACROS.iter().map(|(name, _)| *name)).collect();
    for (usage, name) in
        FUNCTIONS.iter().map(|f| (f.usage, f.name)).chain(MACROS.iter().map(|(name, usage)| (*usage, *name)))
    {
        assert!(
            documentation.contains(&format!("| `{name}` | `{usage}` |")),
            "docs/conditions.md has no row for {name}"
        );
        assert!(WORKING.iter().any(|(known, _)| *known == name), "no example of {name}");
    }
    let claims = claims(r#"{"sub": "s"}"#);
    for (name, source) in WORKING {
        assert!(names.contains(name), "{name}");
        assert!(source.contains(&format!("{name}(")), "{source}");
        assert_eq!(compile(source).evaluate(&claims, NOW), Ok(true), "{source}");
        assert!(documentation.contains(source), "docs/conditions.md lacks the example {source}");
    }
    for limit in [
        CONDITION_MAX.to_string(),
        DEPTH_MAX.to_string(),
        NODES_MAX.to_string(),
        LOOPS_NESTED_MAX.to_string(),
        LOOPS_CHAINED_MAX.to_string(),
        "100,000".into(),
        "1,000".into(),
        "2,048".into(),
        "64 KiB".into(),
        "4 MiB".into(),
    ] {
        assert!(documentation.replace("1,024", "1024").contains(&limit), "docs/conditions.md lacks the limit {limit}");
    }
    assert_eq!((COST_MAX, RANGE_MAX, MATCH_INPUT_MAX), (100_000, 1_000, 2_048));
}

fn soup() -> impl Strategy<Value = String> {
    let mut tokens: Vec<&'static str> = vec![
        "claims",
        "now",
        ".",
        ".sub",
        ".list",
        "[",
        "]",
        "(",
        ")",
        "{",
        "}",
        ",",
        ":",
        "?",
        "?.",
        ".?",
        "==",
        "!=",
        "<",
        ">=",
        "&&",
        "||",
        "!",
        "-",
        "+",
        "*",
        "/",
        "%",
        "in",
        "true",
        "false",
        "null",
        "1",
        "0",
        "2u",
        "1.5",
        "'a'",
        "\"b\"",
        "b'x'",
        "r'\\d'",
        "x",
        "y",
        ".all(x, ",
        ".exists(x, ",
        ".map(x, ",
        ".filter(y, ",
        "has(",
        "@",
        "#",
        "\\",
        "'",
        "\"",
        "é",
        "\n",
        "9223372036854775807",
        "-9223372036854775808",
        "1e308",
        "'(a+)+$'",
        "''",
        "a.b.c",
        "{'a': 1}",
    ];
    tokens.extend(FUNCTIONS.iter().map(|function| function.usage));
    tokens.extend(WORKING.iter().map(|(_, source)| *source));
    prop::collection::vec(prop::sample::select(tokens), 1..24).prop_map(|parts| parts.join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn token_soup_never_panics(source in soup()) {
        if let Ok(condition) = Condition::compile("condition", &source) {
            let outcome = condition.evaluate(&claims(r#"{"sub": "s", "list": [1, "a", {"b": []}], "a": {"b": {"c": 1}}}"#), NOW);
            prop_assert_ne!(&outcome, &Err(PANICKED.to_owned()));
            prop_assert!(!condition.branches().is_empty());
        }
    }

    #[test]
    fn integers_of_claims_compare_as_numbers(n in any::<i64>()) {
        let claims = claims(&format!(r#"{{"n": {n}}}"#));
        prop_assert_eq!(compile("type(claims.n) == int && string(claims.n) == claims.?s.orValue(string(claims.n))").evaluate(&claims, NOW), Ok(true));
    }

    #[test]
    fn strings_pass_through_unchanged(text in any::<String>()) {
        let claims = Claims::parse(serde_json::json!({"a": text, "b": [text]}).to_string().as_bytes()).unwrap();
        prop_assert_eq!(compile("claims.a == claims.b[0] && claims.a in claims.b").evaluate(&claims, NOW), Ok(true));
    }
}
