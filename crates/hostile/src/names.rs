//! Resource names: [`MrnDomain::parse`].

use sallyport_domain::mrn::{MrnDomain, Resource};

use crate::{first_line, text};

/// The first line as a domain, the rest as a name under it and under the default one.
pub fn mrn(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let (domain, name) = first_line(text);
    let domains: Vec<MrnDomain> = [domain, "api.mondoo.app"].into_iter().filter_map(MrnDomain::new).collect();
    for domain in &domains {
        let Some(resource) = domain.parse(name) else {
            assert_eq!((domain.parse_scope(name), domain.parse_role(name)), (None, None));
            continue;
        };
        assert_eq!(domain.format(&resource), name, "what parses is echoed to the letter");
        assert_eq!(domain.parse_scope(name).is_some(), matches!(resource, Resource::Scope(_)));
        assert_eq!(domain.parse_role(name).is_some(), matches!(resource, Resource::Role(_)));
        for other in domains.iter().filter(|other| *other != domain) {
            assert_eq!(other.parse(name), None, "one name under two domains");
        }
    }
}
