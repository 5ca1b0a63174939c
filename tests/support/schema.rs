//! The schema as a client reads it, and a call of every operation made from it: what a test drives with this covers what is
//! added later too, or fails and says what it cannot know.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::World;

/// What a name in an argument can be of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    Organization,
    Space,
    Role,
    Account,
    ApiToken,
    Provider,
    Trust,
    Binding,
    Credential,
    ClientId,
    Exchange,
}

/// One thing of each kind, by the name that arguments use for it.
pub(crate) type Names = BTreeMap<Kind, String>;

/// What an argument, or a member of an input, is for.
enum Slot {
    /// Names something: one of these kinds.
    Names(&'static [Kind]),
    /// Means nothing outside the call. Given when it is required, and left out otherwise.
    Plain(Value),
    /// Means nothing outside the call, and is always given.
    Always(Value),
}

use Kind::{Account, ApiToken, Binding, ClientId, Credential, Exchange, Organization, Provider, Role, Space, Trust};

/// Of every argument of the schema, what it is for: by `operation.argument` or `InputType.member`. New ones belong here.
fn slot(path: &str) -> Option<Slot> {
    let (_, name) = path.split_once('.')?;
    Some(match path {
        // --- names
        "getOrganization.mrn" | "deleteOrganization.mrn" | "UpdateOrganizationInput.mrn" => {
            Slot::Names(&[Organization])
        }
        "getSpace.mrn" | "deleteSpace.mrn" | "UpdateSpaceInput.mrn" => Slot::Names(&[Space]),
        "getRole.mrn" | "deleteRole.mrn" | "UpdateRoleInput.mrn" | "RoleInput.mrn" => Slot::Names(&[Role]),
        "CreateWIFAuthBindingInput.roles" | "UpdateWIFAuthBindingInput.roles" => Slot::Names(&[Role]),
        "CreateWIFTrustInput.scopedRoles" | "UpdateWIFTrustInput.scopedRoles" => Slot::Names(&[Role]),
        "getServiceAccount.mrn" | "UpdateServiceAccountInput.mrn" => Slot::Names(&[Account]),
        "DeleteServiceAccountsInput.mrns" => Slot::Names(&[Account]),
        "GenerateIDTokenInput.serviceAccountMrn" | "CreateWIFTrustInput.serviceAccountMrn" => Slot::Names(&[Account]),
        "DeleteAPITokenInput.mrn" => Slot::Names(&[ApiToken]),
        "getWIFProvider.mrn" | "removeWIFProvider.mrn" | "UpdateWIFProviderInput.mrn" => Slot::Names(&[Provider]),
        "CreateWIFTrustInput.providerMrn" => Slot::Names(&[Provider]),
        "UpdateWIFSubjectInput.providerMrn" | "listWIFSubjects.providerMrn" => Slot::Names(&[Provider]),
        "getWIFTrust.mrn" | "removeWIFTrust.mrn" | "UpdateWIFTrustInput.mrn" => Slot::Names(&[Trust, Binding]),
        "getWIFAuthBinding.mrn" | "removeWIFAuthBinding.mrn" | "UpdateWIFAuthBindingInput.mrn" => {
            Slot::Names(&[Binding, Trust])
        }
        "revokeCredentials.mrn" => Slot::Names(&[Credential, Trust, Binding, Provider, Account]),
        "SimulateExchangeInput.clientId" => Slot::Names(&[ClientId]),
        "SimulateExchangeInput.audience" => Slot::Names(&[Space, Organization, Trust, Binding, ClientId]),
        "listExchanges.reference" => Slot::Names(&[Exchange]),
        // Which of the two decides whether there is such a thing at all.
        "listRoles.orgMrn" | "listSpaces.orgMrn" | "CreateSpaceInput.orgMrn" | "CreateRoleInput.orgMrn" => {
            Slot::Names(&[Organization])
        }
        _ if name == "scopeMrn" => Slot::Names(&[Space, Organization]),
        // --- the rest, by operation
        "CreateRoleInput.name" => Slot::Plain(json!("probe")),
        "CreateRoleInput.permissions" => Slot::Plain(json!(["roles.read"])),
        "UpdateRoleInput.permissions" => Slot::Plain(json!(["roles.read"])),
        "CreateWIFAuthBindingInput.issuerUri" | "CreateWIFProviderInput.issuerUri" => {
            Slot::Always(json!("https://127.0.0.1:1/"))
        }
        "UpdateWIFProviderInput.issuerUri" | "SimulateExchangeInput.issuerUri" => {
            Slot::Plain(json!("https://127.0.0.1:1/"))
        }
        "CreateWIFTrustInput.subject" => Slot::Always(json!("probe")),
        "SimulateExchangeInput.claims" => Slot::Always(json!({ "sub": "probe" })),
        "testWIFCondition.claims" => Slot::Plain(json!({ "sub": "probe" })),
        "testWIFCondition.expression" => Slot::Plain(json!("true")),
        // Ids of organizations and spaces are one name space for all tenants: docs/security.md says what that tells.
        "CreateOrganizationInput.id" | "CreateSpaceInput.id" => Slot::Plain(json!("probe-probe")),
        "buildWIFCondition.fields" => Slot::Plain(json!([{ "key": "subject", "value": "probe" }])),
        "WIFAuthBindingOrder.field" => Slot::Plain(json!("NAME")),
        "listExchanges.granted" | "listWIFTrusts.includeBindings" => Slot::Plain(json!(true)),
        "GenerateIDTokenInput.audience" => Slot::Plain(json!("https://third.party.example")),
        "CreateServiceAccountInput.validUntil" => Slot::Plain(json!("2100-01-01T00:00:00Z")),
        // `after` is a place in a list, and the list is the caller's: the crawl tries those of others.
        "exportEvents.kinds" => Slot::Plain(json!(["EXCHANGE"])),
        "exportEvents.since" | "exportEvents.until" => Slot::Plain(json!("2100-01-01T00:00:00Z")),
        _ if is_list(path) && name == "after" => Slot::Plain(json!("")),
        _ if is_list(path) && name == "first" => Slot::Plain(json!(50)),
        // --- the rest, by name
        _ => match name {
            "name" | "title" | "description" => Slot::Plain(json!("probe")),
            "key" | "value" if path.starts_with("KeyValueInput.") => Slot::Plain(json!("jwt_claims.probe")),
            "subject" | "condition" | "sourceIp" | "jwksUri" | "subjectToken" => Slot::Plain(json!("probe")),
            "mappings" | "allowedAudiences" | "sourceCidrs" | "passthroughClaims" | "algorithms" => {
                Slot::Plain(json!([]))
            }
            "jwks" => Slot::Plain(json!({ "keys": [] })),
            "expiration" | "maxTokenAgeSeconds" | "maxTokenLifetimeSeconds" => Slot::Plain(json!(600)),
            "disabled" | "endsWithSubjectToken" | "requireAudienceHeader" | "dryRun" => Slot::Plain(json!(false)),
            "kind" => Slot::Plain(json!("CUSTOM_OIDC")),
            "replay" => Slot::Plain(json!("ALLOW")),
            "direction" => Slot::Plain(json!("ASC")),
            _ => return None,
        },
    })
}

fn is_list(path: &str) -> bool {
    path.starts_with("list") || path.starts_with("exportEvents.")
}

/// A type as it stands in a document, and what it is in the end.
#[derive(Clone, Debug)]
struct Typed {
    text: String,
    named: String,
    required: bool,
    list: bool,
}

impl Typed {
    fn of(reference: &Value) -> Self {
        match reference["kind"].as_str() {
            Some("NON_NULL") => {
                let inner = Self::of(&reference["ofType"]);
                Self { text: format!("{}!", inner.text), required: true, ..inner }
            }
            Some("LIST") => {
                let inner = Self::of(&reference["ofType"]);
                Self { text: format!("[{}]", inner.text), required: false, list: true, ..inner }
            }
            _ => {
                let name = reference["name"].as_str().expect("a named type").to_owned();
                Self { text: name.clone(), named: name, required: false, list: false }
            }
        }
    }
}

/// An argument of an operation that names something: where it is, and of which kinds.
#[derive(Clone, Debug)]
pub(crate) struct Reference {
    /// `operation.argument`, or `InputType.member`: as in the table.
    pub(crate) path: String,
    /// The members on the way to it, from the variables down.
    at: Vec<String>,
    /// What it may name.
    pub(crate) kinds: &'static [Kind],
}

/// A query or a mutation.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    /// Its name.
    pub(crate) name: String,
    /// Whether it is a mutation.
    pub(crate) mutation: bool,
    /// The document, which takes every argument as a variable and selects all that comes back.
    pub(crate) document: String,
    /// The arguments that name something.
    pub(crate) references: Vec<Reference>,
    /// Whether it takes a place in a list.
    pub(crate) pages: bool,
    arguments: Vec<(String, Typed)>,
}

impl Operation {
    /// Whether there are no arguments: everybody asks the same.
    pub(crate) fn takes_nothing(&self) -> bool {
        self.arguments.is_empty()
    }
}

/// The schema.
pub(crate) struct Schema {
    types: BTreeMap<String, Value>,
}

impl Schema {
    /// Asks the server for it.
    pub(crate) async fn of(world: &World) -> Self {
        const TYPE: &str = "{ kind name ofType { kind name ofType { kind name ofType { kind name } } } }";
        let document = format!(
            "{{ __schema {{ types {{ kind name fields {{ name args {{ name type {TYPE} }} type {TYPE} }} \
             inputFields {{ name type {TYPE} }} }} }} }}"
        );
        let mut answer = world.graphql(&document, json!({})).await;
        let types = answer["__schema"]["types"].take();
        let types = types.as_array().expect("types").iter();
        Self { types: types.map(|one| (one["name"].as_str().expect("a name").to_owned(), one.clone())).collect() }
    }

    /// Every query and mutation there is.
    pub(crate) fn operations(&self) -> Vec<Operation> {
        let mut unknown = Vec::new();
        let mut operations = Vec::new();
        for (root, mutation) in [("Query", false), ("Mutation", true)] {
            for field in self.types[root]["fields"].as_array().expect("fields") {
                let name = field["name"].as_str().expect("a name").to_owned();
                let arguments: Vec<(String, Typed)> = members(&field["args"]).collect();
                let mut references = Vec::new();
                for (argument, typed) in &arguments {
                    let mut at = vec![argument.clone()];
                    self.explore(&format!("{name}.{argument}"), typed, &mut at, &mut references, &mut unknown);
                }
                let declared: Vec<String> =
                    arguments.iter().map(|(name, typed)| format!("${name}: {}", typed.text)).collect();
                let given: Vec<String> = arguments.iter().map(|(name, _)| format!("{name}: ${name}")).collect();
                let wrapped =
                    |list: Vec<String>| if list.is_empty() { String::new() } else { format!("({})", list.join(", ")) };
                let document = format!(
                    "{}{} {{ {name}{} {} }}",
                    if mutation { "mutation" } else { "query" },
                    wrapped(declared),
                    wrapped(given),
                    self.everything(&Typed::of(&field["type"]).named, &mut Vec::new()),
                );
                let pages = arguments.iter().any(|(name, _)| name == "after");
                operations.push(Operation { name, mutation, document, references, pages, arguments });
            }
        }
        assert!(unknown.is_empty(), "arguments that the table in tests/support/schema.rs does not know: {unknown:#?}");
        operations
    }

    /// Finds the arguments that name something, and those that nobody has said anything about.
    fn explore(
        &self,
        path: &str,
        typed: &Typed,
        at: &mut Vec<String>,
        references: &mut Vec<Reference>,
        unknown: &mut Vec<String>,
    ) {
        let inner = &self.types[&typed.named];
        match slot(path) {
            Some(Slot::Names(kinds)) => references.push(Reference { path: path.to_owned(), at: at.clone(), kinds }),
            // An input in a list of them is told by its members, wherever the list is.
            _ if inner["kind"] == "INPUT_OBJECT" => {
                for (member, typed) in members(&inner["inputFields"]) {
                    at.push(member.clone());
                    self.explore(&format!("{}.{member}", typed_name(inner)), &typed, at, references, unknown);
                    at.pop();
                }
            }
            Some(Slot::Plain(_) | Slot::Always(_)) => {}
            None => unknown.push(path.to_owned()),
        }
    }

    /// A selection of every field of a type, and of all they lead to.
    fn everything(&self, name: &str, within: &mut Vec<String>) -> String {
        let Some(fields) = self.types[name]["fields"].as_array() else { return String::new() };
        within.push(name.to_owned());
        let mut selected = String::from("{ ");
        for field in fields {
            let (inner, required) = (Typed::of(&field["type"]).named, members(&field["args"]).any(|(_, t)| t.required));
            let field = field["name"].as_str().expect("a name");
            assert!(!required, "{name}.{field} needs arguments: teach tests/support/schema.rs what to give");
            if !within.contains(&inner) {
                selected.push_str(&format!("{field} {} ", self.everything(&inner, within)));
            }
        }
        within.pop();
        selected.push('}');
        selected
    }

    /// Variables for a call: every required argument, with the things of `names`, and these references with these names.
    pub(crate) fn variables(&self, operation: &Operation, names: &Names, given: &[(&Reference, &str)]) -> Value {
        let mut variables = Map::new();
        for (argument, typed) in &operation.arguments {
            let mut at = vec![argument.clone()];
            let path = format!("{}.{argument}", operation.name);
            if let Some(value) = self.value(&path, typed, &mut at, names, given) {
                variables.insert(argument.clone(), value);
            }
        }
        Value::Object(variables)
    }

    fn value(
        &self,
        path: &str,
        typed: &Typed,
        at: &mut Vec<String>,
        names: &Names,
        given: &[(&Reference, &str)],
    ) -> Option<Value> {
        let listed = |value: Value| if typed.list && !value.is_array() { json!([value]) } else { value };
        let chosen = given.iter().find(|(reference, _)| reference.at == *at);
        let below = given.iter().any(|(reference, _)| reference.at.starts_with(at));
        let inner = &self.types[&typed.named];
        match slot(path) {
            Some(Slot::Names(kinds)) => match chosen {
                Some((_, name)) => Some(listed(json!(name))),
                None => typed.required.then(|| listed(json!(names[&kinds[0]]))),
            },
            Some(Slot::Always(value)) => Some(value),
            Some(Slot::Plain(value)) if inner["kind"] != "INPUT_OBJECT" || typed.list && !below => {
                typed.required.then_some(value)
            }
            // The input of an operation is given even where it may be left out.
            _ if typed.required || below || at == &["input"] => {
                let mut object = Map::new();
                for (member, typed) in members(&inner["inputFields"]) {
                    at.push(member.clone());
                    let path = format!("{}.{member}", typed_name(inner));
                    if let Some(value) = self.value(&path, &typed, at, names, given) {
                        object.insert(member, value);
                    }
                    at.pop();
                }
                Some(listed(Value::Object(object)))
            }
            _ => None,
        }
    }
}

fn typed_name(of: &Value) -> &str {
    of["name"].as_str().expect("a name")
}

/// Arguments or input members with their types.
fn members(list: &Value) -> impl Iterator<Item = (String, Typed)> {
    list.as_array()
        .into_iter()
        .flatten()
        .map(|one| (one["name"].as_str().expect("a name").to_owned(), Typed::of(&one["type"])))
}
