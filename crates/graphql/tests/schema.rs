//! The published schema: `schema.graphql` at the root is what the program has.

#[test]
fn the_published_schema_is_the_program_s() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../schema.graphql");
    let sdl = sallyport_graphql::sdl();
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(path, &sdl).unwrap();
    }
    let published = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        published == sdl,
        "schema.graphql is out of date; run the test again with UPDATE_SCHEMA=1 and review the change"
    );
}

/// What clients declare their variables as, to the letter.
#[test]
fn the_fixed_part_is_as_pinned() {
    let sdl = sallyport_graphql::sdl();
    let fields: Vec<&str> = sdl.lines().map(str::trim).collect();
    for wanted in [
        "scopeMrn: String!",
        "issuerUri: String!",
        "roles: [String!]",
        "expiration: Int",
        "mappings: [KeyValueInput!]",
        "allowedAudiences: [String!]",
        "direction: OrderDirection!",
        "field: AuthBindingOrderField!",
        "key: String!",
        "kind: WIFProviderKind!",
        "jwks: JSON",
        "algorithms: [String!]",
        "maxTokenAgeSeconds: Int",
        "replay: ReplayPolicy",
        "scopedRoles: [String!]",
        "passthroughClaims: [String!]",
        "roles: [RoleInput!]",
        "enum AuthBindingOrderField {",
        "enum ReplayPolicy {",
        "input CreateWIFAuthBindingInput {",
        "type WIFAuthBinding {",
        "type WIFProvider {",
        "type WIFTrust {",
        "wifPresets: [WIFPreset!]!",
    ] {
        assert!(fields.iter().any(|line| line == &wanted), "{wanted}");
    }
    let create = &sdl[sdl.find("createWIFAuthBinding(").unwrap()..];
    assert!(create[..create.find(')').unwrap()].contains("input: CreateWIFAuthBindingInput"), "nullable on purpose");
    assert!(!create[..create.find(')').unwrap()].contains("CreateWIFAuthBindingInput!"), "nullable on purpose");
}
