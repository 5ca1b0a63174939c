//! The one place where a provider, a trust or a binding that is about to be saved is judged, whether it is new or changed.
//!
//! Refusals are errors that name the field; what is merely unwise is a warning, kept with the object. The guard rails of each
//! platform are `sallyport_domain::lint`'s; here they meet everything else that is checked.

use std::sync::Arc;

use sallyport_domain::issuer::{IssuerKey, check_fetch_url};
use sallyport_domain::matching::Installation;
use sallyport_domain::preset::preset;
use sallyport_domain::principal::ServiceAccount;
use sallyport_domain::provider::{AWS_STS_ISSUER, KeySource, Provider, ProviderKind};
use sallyport_domain::role::RoleRef;
use sallyport_domain::trust::{CompiledTrust, Trust};
use sallyport_domain::validate::{self, KEY_SET_MAX, list_within, required_text};
use sallyport_gateway::Services;
use sallyport_identity::discovery::IssuerProblem;
use url::Url;

use crate::access::Access;
use crate::error::{Error, Result};
use crate::inputs::check_label;

/// Longest rule about ages and lifetimes of subject tokens, in seconds: 30 days.
const TOKEN_AGE_MAX: u32 = 30 * 86_400;

/// What is to be done about an issuer that cannot be reached just now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WhenUnreachable {
    /// Refuse: an admin who makes a provider wants it to work.
    Refuse,
    /// Warn: the documented mutations work behind a closed network too.
    Warn,
}

/// Judges a trust or binding by everything there is to judge it by, and fills in its warnings.
///
/// Says nothing about who saves it but one thing: what it grants must not reach beyond the caller's own permissions.
pub(crate) fn trust(access: &Access<'_>, trust: Trust, provider: &Provider, account: &ServiceAccount) -> Result<Trust> {
    let compiled = CompiledTrust::admit(trust, provider)?;
    let mut warnings = lint(&compiled, provider)?;
    let mut trust = compiled.trust().clone();
    access.may_grant(
        if trust.binding { "roles" } else { "scopedRoles" },
        &effective_roles(&trust, account),
        &trust.scope,
    )?;
    let lacking: Vec<&str> =
        trust.scoped_roles.iter().filter(|role| !account.roles.contains(role)).map(RoleRef::name).collect();
    if !lacking.is_empty() {
        warnings.push(format!(
            "the service account does not have the scoped roles {}; they are not granted as long as it has not",
            lacking.join(", ")
        ));
    }
    let mut seen = Vec::with_capacity(warnings.len());
    for warning in warnings {
        if !seen.contains(&warning) {
            seen.push(warning);
        }
    }
    trust.warnings = seen.into();
    Ok(trust)
}

/// What a trust gives at most: its scoped roles that the account has, or all of the account's. A scoped role that the account
/// lacks counts too: the account may get it later.
pub(crate) fn effective_roles(trust: &Trust, account: &ServiceAccount) -> Arc<[RoleRef]> {
    if trust.scoped_roles.is_empty() { account.roles.clone() } else { trust.scoped_roles.clone() }
}

/// The guard rails of the platform: refusals as errors, the unwise as warnings.
fn lint(compiled: &CompiledTrust, provider: &Provider) -> Result<Vec<String>> {
    let found = sallyport_domain::lint::lint(compiled, provider);
    if let Some(refusal) = found.refusal {
        return Err(refusal.into());
    }
    let mut warnings: Vec<String> = found.warnings.iter().map(ToString::to_string).collect();
    warnings.extend(unpublished_keys(compiled.trust(), provider));
    let audiences = !compiled.trust().allowed_audiences.is_empty();
    if provider.kind == ProviderKind::AwsSts && audiences && !provider.require_audience_header {
        warnings.push(
            "allowedAudiences: a signed AWS request has no audience unless it carries the signed header x-sallyport-audience; requests without it are refused"
                .to_owned(),
        );
    }
    Ok(warnings)
}

/// A binding takes its scope's provider for the issuer without being told which. Whoever made that one may have had fewer rights
/// than who binds roles to it now, and chose whose signatures count.
fn unpublished_keys(trust: &Trust, provider: &Provider) -> Option<String> {
    let keys = match &provider.keys {
        KeySource::Uploaded(_) => "a key set that was uploaded".to_owned(),
        // A trust domain publishes no keys of its own: where they are has to be said.
        KeySource::Url(_) if provider.kind == ProviderKind::Spiffe => return None,
        KeySource::Url(url) => format!("the keys at {url}"),
        KeySource::Discovery | KeySource::Sts => return None,
    };
    trust.binding.then(|| {
        format!(
            "issuerUri: this scope's provider for the issuer, '{}', verifies tokens with {keys}, not with those that the issuer publishes; make sure that they are its own",
            provider.name
        )
    })
}

/// Judges a provider, and fills in what is unwise about it. Whether its issuer answers is for [`issuer`] to say.
pub(crate) fn provider(installation: &Installation, provider: &mut Provider) -> Result<()> {
    check_label(&provider.name, provider.description.as_deref())?;
    let issuer = provider.issuer.as_str();
    let named = ProviderKind::of_issuer(issuer);
    if named != provider.kind && named != ProviderKind::CustomOidc {
        return Err(Error::invalid("kind", format!("is {}, but {issuer} is the issuer of {named}", provider.kind)));
    }
    if provider.kind == ProviderKind::AwsSts && named != ProviderKind::AwsSts {
        return Err(Error::invalid("issuerUri", format!("must be {AWS_STS_ISSUER} for {}", provider.kind)));
    }
    match &provider.keys {
        KeySource::Sts if provider.kind != ProviderKind::AwsSts => return Err(Error::internal("STS for another kind")),
        KeySource::Sts => {}
        _ if provider.kind == ProviderKind::AwsSts => {
            return Err(Error::invalid("jwksUri", "must be left out for AWS_STS: AWS itself vouches for its callers"));
        }
        KeySource::Discovery if provider.kind == ProviderKind::Spiffe => {
            return Err(Error::invalid("jwksUri", "SPIFFE needs the trust domain's keys: set jwksUri or jwks"));
        }
        KeySource::Discovery => {}
        KeySource::Url(url) => drop(check_fetch_url("jwksUri", url)?),
        KeySource::Uploaded(text) if text.len() > KEY_SET_MAX => {
            return Err(Error::invalid(
                "jwks",
                format!("is {} bytes long; at most {KEY_SET_MAX} are allowed", text.len()),
            ));
        }
        KeySource::Uploaded(_) => {}
    }
    list_within("algorithms", &provider.algorithms)?;
    for (field, value) in
        [("maxTokenAgeSeconds", provider.max_token_age), ("maxTokenLifetimeSeconds", provider.max_token_lifetime)]
    {
        if value.is_some_and(|seconds| !(1..=TOKEN_AGE_MAX).contains(&seconds)) {
            return Err(Error::invalid(field, format!("must be between 1 and {TOKEN_AGE_MAX} seconds")));
        }
    }
    if provider.require_audience_header && provider.kind != ProviderKind::AwsSts {
        return Err(Error::invalid("requireAudienceHeader", "is for AWS_STS only; JWTs always name their audience"));
    }
    own_issuer(installation, issuer)?;
    provider.warnings.clear();
    if !preset(provider.kind).issuer_editable && named != provider.kind {
        provider.warnings.push(format!(
            "{issuer} is not the issuer of {}; its tokens come from {}",
            provider.kind,
            provider.kind.default_issuer().unwrap_or("elsewhere")
        ));
    }
    Ok(())
}

/// Refuses our own public URL as an issuer, however it is spelt: credentials would renew themselves for ever.
pub(crate) fn own_issuer(installation: &Installation, issuer: &str) -> Result<()> {
    let canonical = |text: &str| Url::parse(text).map_or_else(|_| text.to_owned(), |url| url.to_string());
    if IssuerKey::of(&canonical(issuer)) == IssuerKey::of(&canonical(&installation.public_url)) {
        return Err(Error::failed_precondition(
            "this is our own public URL: credentials from here, accepted here, would renew themselves for ever",
        )
        .on("issuerUri"));
    }
    Ok(())
}

/// Asks the issuer whether it is what the admin says, while they wait. `Some`: a warning to keep with the object.
pub(crate) async fn issuer(
    services: &Services,
    provider: &Provider,
    unreachable: WhenUnreachable,
) -> Result<Option<String>> {
    let refused = |why: String| {
        if matches!(provider.keys, KeySource::Uploaded(_)) {
            return Error::invalid("jwks", why);
        }
        Error::failed_precondition(format!("the issuer {} was refused: {why}", provider.issuer)).on("issuerUri")
    };
    match services.verifier.check_issuer(provider).await {
        Ok(()) => Ok(None),
        Err(IssuerProblem::Unreachable(why)) if unreachable == WhenUnreachable::Warn => {
            Ok(Some(format!("the issuer could not be reached when this was saved: {why}")))
        }
        Err(IssuerProblem::Unreachable(why) | IssuerProblem::Wrong(why) | IssuerProblem::RuleBroken(why)) => {
            Err(refused(why))
        }
    }
}

/// Checks the audience of an ID token.
pub(crate) fn audience(audience: &str) -> Result<()> {
    Ok(required_text("audience", audience, validate::TEXT_MAX)?)
}
