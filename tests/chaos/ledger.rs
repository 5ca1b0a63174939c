//! What workloads asked for and were told, and its comparison with what is on record.
//!
//! Every token has a subject of its own, by which its records are found. So a record that nobody asked for, or a second one
//! for one request, shows as well as one that is missing; and so does a second grant for a token that is taken only once.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sallyport_testkit::{AccessKey, Algorithm, CallerIdentity, Issuer, PresignOptions, Sts, presign};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::report::Figures;
use crate::support::{Reply, World, claims, claims_of, document, form, now, role};

/// Items of one page of the listing.
const PAGE: u32 = 500;
/// The issuer of pre-signed AWS requests.
const AWS: &str = "https://sts.amazonaws.com";
/// The workloads' account.
const ACCOUNT: &str = "123456789012";
/// The workloads' role.
const ROLE: &str = "arn:aws:sts::123456789012:assumed-role/Deploy";

/// The two protocols.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Door {
    /// Mondoo's RPC: a key pair with its certificate.
    KeyPair,
    /// The OAuth token endpoint: an access token.
    AccessToken,
}

impl Door {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::KeyPair, Self::AccessToken];

    /// This one only.
    const fn alone(self) -> &'static [Self] {
        match self {
            Self::KeyPair => &[Self::KeyPair],
            Self::AccessToken => &[Self::AccessToken],
        }
    }

    /// As the record has it.
    const fn protocol(self) -> &'static str {
        match self {
            Self::KeyPair => "rpc",
            Self::AccessToken => "oauth",
        }
    }
}

/// A credential that was handed out.
#[derive(Clone, Debug)]
pub(crate) enum Credential {
    /// The document with the key.
    KeyPair(Value),
    /// The bearer.
    AccessToken(String),
}

/// What a request was answered.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Outcome {
    /// 200, with this credential.
    Granted(String),
    /// A refusal.
    Refused,
    /// 503.
    Unavailable,
}

#[derive(Debug)]
struct Answer {
    door: Door,
    /// As the caller was told.
    reference: String,
    outcome: Outcome,
}

/// A token.
#[derive(Debug)]
struct Entry {
    space: Arc<str>,
    /// Where it is shown, by one request each.
    doors: &'static [Door],
    /// What these were answered; of the others nothing is known, not yet or never: the connection broke.
    answers: Vec<Answer>,
}

/// What is on record of a token.
#[derive(Debug, Default)]
struct Recorded {
    granted: bool,
    /// It was refused since it was used before.
    refused_as_used: bool,
    /// Those of its requests that are on record.
    doors: Vec<Door>,
}

/// All requests of one scenario.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    entries: Mutex<HashMap<String, Entry>>,
    numbers: AtomicU64,
    granted: AtomicU64,
    refused: AtomicU64,
    unavailable: AtomicU64,
}

/// Where the record contradicts what workloads were told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    /// Credentials handed out without a record.
    pub(crate) lost: Vec<String>,
    /// Records that nobody asked for, or that contradict the answer.
    pub(crate) invented: Vec<String>,
    /// Grants on record whose answer never arrived: nobody has that credential.
    pub(crate) unclaimed: u64,
}

impl Findings {
    /// Both.
    pub(crate) fn extend(&mut self, other: Self) {
        self.lost.extend(other.lost);
        self.invented.extend(other.invented);
        self.unclaimed += other.unclaimed;
    }
}

impl Ledger {
    /// A number for one token, which is on the books from here on under the subject made of it.
    fn open(&self, space: &Arc<str>, doors: &'static [Door], subject: impl FnOnce(u64) -> String) -> String {
        let subject = subject(self.numbers.fetch_add(1, Ordering::Relaxed));
        let entry = Entry { space: Arc::clone(space), doors, answers: Vec::new() };
        self.lock().insert(subject.clone(), entry);
        subject
    }

    fn close(&self, subject: &str, answer: Answer) {
        let counter = match &answer.outcome {
            Outcome::Granted(_) => &self.granted,
            Outcome::Refused => &self.refused,
            Outcome::Unavailable => &self.unavailable,
        };
        if let Some(entry) = self.lock().get_mut(subject) {
            entry.answers.push(answer);
        }
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// How many credentials were handed out so far.
    pub(crate) fn granted(&self) -> u64 {
        self.granted.load(Ordering::Relaxed)
    }

    /// How often 503 was the answer so far.
    pub(crate) fn unavailable(&self) -> u64 {
        self.unavailable.load(Ordering::Relaxed)
    }

    /// How many refusals there were so far.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// The whole of it in figures.
    pub(crate) fn totals(&self) -> Figures {
        let exchanges = self.lock().values().map(|entry| entry.doors.len() as u64).sum::<u64>();
        let (granted, refused) = (self.granted(), self.refused());
        Figures { exchanges, granted, refused, unanswered: exchanges - granted - refused, ..Figures::default() }
    }

    /// Reads every record of a scope and below, page by page, and compares. To be called when nothing is under way.
    pub(crate) async fn audit(&self, world: &World, scope: &str) -> Findings {
        let records = records(world, scope).await;
        let entries = self.lock();
        let mut findings = Findings::default();
        let mut subjects: HashMap<&str, &str> = HashMap::new();
        for (subject, entry) in entries.iter() {
            for answer in &entry.answers {
                if let Some(other) = subjects.insert(&answer.reference, subject) {
                    findings.lost.push(format!("{subject}: {answer:?} has the reference of an answer to {other}"));
                }
            }
        }
        let mut recorded: HashMap<&str, Recorded> = HashMap::new();
        for record in &records {
            let text = |name: &str| record[name].as_str();
            // What did not verify may have no subject.
            let subject = text("subject").or_else(|| subjects.get(text("reference")?).copied()).unwrap_or_default();
            let known = entries.get(subject);
            let granted = record["granted"] == json!(true);
            let door = Door::ALL.into_iter().find(|door| Some(door.protocol()) == text("protocol"));
            let door = door.filter(|door| known.is_some_and(|entry| entry.doors.contains(door)));
            let answer = known.and_then(|entry| entry.answers.iter().find(|answer| Some(answer.door) == door));
            let agrees = door.is_some()
                && answer.is_none_or(|Answer { reference, outcome, .. }| {
                    Some(reference.as_str()) == text("reference")
                        && match outcome {
                            Outcome::Granted(credential) => {
                                granted && Some(credential.as_str()) == text("credentialMrn")
                            }
                            Outcome::Refused => !granted,
                            Outcome::Unavailable => true,
                        }
                });
            let claimed = answer.is_some_and(|answer| matches!(answer.outcome, Outcome::Granted(_)));
            findings.unclaimed += u64::from(agrees && granted && !claimed);
            let of_token = recorded.entry(subject).or_default();
            let again = (granted && of_token.granted) || door.is_some_and(|door| of_token.doors.contains(&door));
            if !agrees || again {
                findings.invented.push(format!("{record}, but known is {known:?}"));
            }
            of_token.granted |= granted;
            of_token.refused_as_used |= text("reason") == Some("replay");
            of_token.doors.extend(door);
        }
        for (subject, of_token) in &recorded {
            if of_token.refused_as_used && !of_token.granted {
                findings.invented.push(format!("{subject} is refused as used before, and was never granted"));
            }
        }
        let references: HashSet<&str> = records.iter().filter_map(|record| record["reference"].as_str()).collect();
        for (subject, entry) in entries.iter() {
            if scope != &*entry.space && !scope.starts_with("//platform.") {
                continue;
            }
            for answer in &entry.answers {
                if matches!(answer.outcome, Outcome::Granted(_)) && !references.contains(answer.reference.as_str()) {
                    findings.lost.push(format!("{subject}: {answer:?}"));
                }
            }
        }
        findings
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When an exchange was decided, by the clock of the replica that did.
fn when(record: &Value) -> OffsetDateTime {
    OffsetDateTime::parse(record["time"].as_str().unwrap_or_default(), &Rfc3339).expect("RFC 3339")
}

/// Every record, and that the pages fit together: newest first, none twice, as many as there are said to be.
async fn records(world: &World, scope: &str) -> Vec<Value> {
    let list = "query($scope: String!, $first: Int, $after: String) { \
                listExchanges(scopeMrn: $scope, first: $first, after: $after) { totalCount \
                exchanges { reference time granted reason protocol subject credentialMrn } pageInfo { hasNextPage endCursor } } }";
    let mut records = Vec::new();
    let mut after = Value::Null;
    loop {
        let variables = json!({ "scope": scope, "first": PAGE, "after": after });
        let mut page = world.graphql(list, variables).await["listExchanges"].take();
        records.append(page["exchanges"].as_array_mut().expect("a list"));
        if page["pageInfo"]["hasNextPage"] != json!(true) {
            let newest_first = |pair: &[Value]| when(&pair[0]) >= when(&pair[1]);
            assert!(records.windows(2).all(newest_first), "out of order");
            let references: HashSet<&str> = records.iter().filter_map(|record| record["reference"].as_str()).collect();
            assert_eq!(references.len(), records.len(), "a reference is listed twice");
            assert_eq!(page["totalCount"], json!(records.len()), "the pages hold all there is");
            return records;
        }
        after = page["pageInfo"]["endCursor"].take();
    }
}

/// Who vouches for workloads.
#[derive(Clone)]
enum Voucher {
    Issuer(Arc<Issuer>),
    Sts(Arc<Sts>),
}

/// A space with a binding, somebody who vouches for its workloads, and the way through both doors.
#[derive(Clone)]
pub(crate) struct Gate {
    /// The space's MRN.
    pub(crate) space: Arc<str>,
    /// The binding's MRN; of a gate of [`Gate::to`], the trust's.
    pub(crate) mrn: Arc<str>,
    client_id: Arc<str>,
    voucher: Voucher,
    http: reqwest::Client,
    /// Another way into the same space, by which each token gets in only once.
    pub(crate) once: Option<Arc<Gate>>,
}

/// What a workload shows to prove who it is.
struct Proof<'g> {
    subject: String,
    token: String,
    issuer: &'g str,
    /// As OAuth names it.
    kind: &'static str,
}

impl Gate {
    /// A new space with a new binding.
    pub(crate) async fn new(world: &World, issuer: &Arc<Issuer>) -> Self {
        Self::bind(world, Voucher::Issuer(Arc::clone(issuer)), issuer.uri(), "chaos:load:*").await
    }

    /// As [`new`](Self::new), for the sessions of an AWS role.
    pub(crate) async fn for_aws(world: &World, sts: &Arc<Sts>) -> Self {
        Self::bind(world, Voucher::Sts(Arc::clone(sts)), AWS, &format!("{ROLE}/*")).await
    }

    async fn bind(world: &World, voucher: Voucher, issuer: &str, subject: &str) -> Self {
        let space = world.place().await.space;
        let input = json!({ "scopeMrn": space, "name": "chaos", "issuerUri": issuer, "subject": subject,
                            "roles": [role("agent")] });
        let binding = world.bind(input).await;
        let (space, mrn, client_id) = (space.into(), binding.mrn.into(), binding.client_id.into());
        Self { space, mrn, client_id, voucher, http: World::client(), once: None }
    }

    /// With another way into its space, for workloads of this issuer, of which each token is taken only once.
    pub(crate) async fn and_once(self, world: &World, issuer: &Arc<Issuer>) -> Self {
        let account = world.service_account(&self.space, &["agent"]).await["mrn"].take();
        let provider = world
            .provider_with(json!({ "scopeMrn": *self.space, "name": "once", "kind": "CUSTOM_OIDC",
                                   "issuerUri": issuer.uri(), "replay": "ONCE" }))
            .await;
        let trust = json!({ "serviceAccountMrn": account, "providerMrn": provider, "name": "once",
                            "subject": "chaos:load:*" });
        let (mrn, client_id) = world.trust(trust).await;
        let once = Self::to(&self.space, &client_id, &mrn, issuer);
        Self { once: Some(Arc::new(once)), ..self }
    }

    /// The way to a trust that is there. A client of its own: a workload shares no connection with others.
    pub(crate) fn to(space: &str, client_id: &str, mrn: &str, issuer: &Arc<Issuer>) -> Self {
        let voucher = Voucher::Issuer(Arc::clone(issuer));
        let http = World::client();
        Self { space: space.into(), mrn: mrn.into(), client_id: client_id.into(), voucher, http, once: None }
    }

    /// The same way, for workloads that have no connection yet.
    pub(crate) fn of_new_clients(&self) -> Self {
        let once = self.once.as_ref().map(|once| Arc::new(once.of_new_clients()));
        Self { http: World::client(), once, ..self.clone() }
    }

    /// One exchange of an honest token. The status, when there was an answer, and the credential.
    pub(crate) async fn attempt(&self, url: &str, door: Door, ledger: &Ledger) -> (Option<u16>, Option<Credential>) {
        self.attempt_at(url, door, ledger, |_| {}).await
    }

    /// As [`attempt`](Self::attempt), the claims changed.
    pub(crate) async fn attempt_at(
        &self,
        url: &str,
        door: Door,
        ledger: &Ledger,
        change: impl FnOnce(&mut Value),
    ) -> (Option<u16>, Option<Credential>) {
        let proof = self.vouch(door.alone(), ledger, change);
        self.show(&proof, url, door, ledger).await
    }

    /// One token at both doors at the same moment, each at a server of its own where there are two. The statuses, where there
    /// were answers.
    pub(crate) async fn attempt_at_both(&self, urls: [&str; 2], ledger: &Ledger) -> [Option<u16>; 2] {
        let proof = self.vouch(&Door::ALL, ledger, |_| {});
        let shown = |door: usize| self.show(&proof, urls[door], Door::ALL[door], ledger);
        let ((one, _), (two, _)) = tokio::join!(shown(0), shown(1));
        [one, two]
    }

    /// What proves who a new workload is, to be shown at these doors.
    fn vouch(&self, doors: &'static [Door], ledger: &Ledger, change: impl FnOnce(&mut Value)) -> Proof<'_> {
        match &self.voucher {
            Voucher::Issuer(issuer) => {
                let subject = ledger.open(&self.space, doors, |number| format!("chaos:load:{number}"));
                let mut claims = claims(issuer, &subject, &self.space);
                change(&mut claims);
                let token = issuer.mint_with(Algorithm::Es256, &claims);
                Proof { subject, token, issuer: issuer.uri(), kind: "urn:ietf:params:oauth:token-type:jwt" }
            }
            Voucher::Sts(sts) => {
                let mut session = String::new();
                let subject = ledger.open(&self.space, doors, |number| {
                    session = number.to_string();
                    format!("{ROLE}/{session}")
                });
                let key = AccessKey::temporary();
                sts.add_identity(key.clone(), CallerIdentity::assumed_role(ACCOUNT, "Deploy", &session));
                let token = presign(&key, &PresignOptions::mondoo(now())).to_string();
                Proof { subject, token, issuer: AWS, kind: "urn:ietf:params:aws:token-type:aws4_request" }
            }
        }
    }

    /// Shows it at a door.
    async fn show(
        &self,
        proof: &Proof<'_>,
        url: &str,
        door: Door,
        ledger: &Ledger,
    ) -> (Option<u16>, Option<Credential>) {
        let Proof { subject, token, issuer, kind } = proof;
        let request = match door {
            Door::KeyPair => {
                let body = json!({ "audience": *self.space, "issuer_uri": issuer, "jwt_token": token });
                self.http.post(format!("{url}/SecureTokenService/ExchangeExternalToken")).json(&body)
            }
            Door::AccessToken => {
                let fields = [
                    ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
                    ("subject_token", token),
                    ("subject_token_type", kind),
                    ("client_id", &self.client_id),
                ];
                let request = self.http.post(format!("{url}/auth/v1/token")).body(form(&fields));
                request.header("content-type", "application/x-www-form-urlencoded")
            }
        };
        let Ok(reply) = Reply::of(request).await else { return (None, None) };
        let (outcome, credential) = match reply.status {
            200 => {
                let (name, credential) = handed_out(door, &reply);
                (Outcome::Granted(name), Some(credential))
            }
            400 | 401 | 403 => (Outcome::Refused, None),
            503 => (Outcome::Unavailable, None),
            _ => panic!("{door:?} answered what no client expects: {reply:?}\n{}", reply.text()),
        };
        // The deadline for a whole request answers without a reference, since the exchange may yet be under way.
        let reference = reply.header("x-sallyport-reference").to_owned();
        if reference.is_empty() && outcome == Outcome::Unavailable {
            return (Some(reply.status), None);
        }
        ledger.close(subject, Answer { door, reference: reply.reference(), outcome });
        (Some(reply.status), credential)
    }
}

/// The credential's MRN, and the credential.
fn handed_out(door: Door, reply: &Reply) -> (String, Credential) {
    match door {
        Door::KeyPair => {
            let document = document(reply);
            let name = document["mrn"].as_str().expect("the document names its credential").to_owned();
            (name, Credential::KeyPair(document))
        }
        Door::AccessToken => {
            let token = reply.json()["access_token"].as_str().expect("a token").to_owned();
            let claims = claims_of(&token);
            let text = |name: &str| claims[name].as_str().expect("a claim").to_owned();
            (format!("{}/credentials/{}", text("sub"), text("jti")), Credential::AccessToken(token))
        }
    }
}
