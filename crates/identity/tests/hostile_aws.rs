//! The standing list of AWS documents and STS answers that must be refused, each with the reason that is given. Each would be
//! good but for one thing. threats.md, "Pre-signed AWS requests".

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers outside test functions may fail a test too")]

use sallyport_identity::SignedRequest;
use sallyport_identity::aws::Caller;
use sallyport_identity::jwt::TOKEN_MAX;
use serde_json::{Value, json};

const URL: &str = "https://sts.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15";
const QUERY: &str = "Action=GetCallerIdentity&Version=2011-06-15";
const FORM: &str = "application/x-www-form-urlencoded";
const AUTHORIZATION: &str = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20261122/us-east-1/sts/aws4_request, \
    SignedHeaders=host;x-amz-date, Signature=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A document under construction; what it begins as is accepted.
#[derive(Clone)]
struct Document(Value);

fn good() -> Document {
    let header = |key: &str, value: &str| json!({"key": key, "value": value});
    Document(json!({
        "url": URL,
        "method": "POST",
        "headers": [
            header("host", "sts.amazonaws.com"),
            header("Authorization", AUTHORIZATION),
            header("X-Amz-Date", "20261122T120000Z"),
        ],
    }))
}

impl Document {
    fn member(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0[name] = value.into();
        self
    }

    fn header(mut self, key: &str, value: &str) -> Self {
        self.0["headers"].as_array_mut().unwrap().push(json!({"key": key, "value": value}));
        self
    }

    /// The same header with another value.
    fn with(self, key: &str, value: &str) -> Self {
        self.without(key).header(key, value)
    }

    fn without(mut self, key: &str) -> Self {
        self.0["headers"].as_array_mut().unwrap().retain(|header| header["key"] != key);
        self
    }

    fn url(self, url: &str) -> Self {
        self.member("url", url)
    }

    fn signing(self, signed: &str) -> Self {
        self.with("Authorization", &AUTHORIZATION.replace("host;x-amz-date", signed))
    }

    fn authorization(self, from: &str, to: &str) -> Self {
        assert!(AUTHORIZATION.contains(from));
        self.with("Authorization", &AUTHORIZATION.replace(from, to))
    }

    fn text(&self) -> String {
        self.0.to_string()
    }
}

fn refusal(document: &str) -> String {
    SignedRequest::parse(document).expect_err(document).to_string()
}

const NOT_JSON: &str = "is not a pre-signed AWS request: a JSON object of url, method and headers is wanted";
const HOST: &str = "names a host that is not an AWS STS endpoint";
const ACTION: &str = "asks for something other than Action=GetCallerIdentity&Version=2011-06-15";
const VALUE: &str = "whose value is not acceptable";
const UNREADABLE: &str = "has an 'authorization' header that cannot be read";
const SIGNS: &str = "signs a header that is not there or not accepted";

#[test]
fn documents_that_must_be_refused() {
    SignedRequest::parse(&good().text()).unwrap();
    let text = good().text();
    let table = [
        // The document itself.
        ("nothing", String::new(), NOT_JSON),
        ("a JWT", "eyJhbGciOiJub25lIn0.e30.".into(), NOT_JSON),
        ("an array", "[]".into(), NOT_JSON),
        ("an empty object", "{}".into(), "has no 'method' that is a string"),
        ("over 16 KiB", good().member("body", "x".repeat(TOKEN_MAX)).text(), "is longer than 16384 bytes"),
        ("bytes after it", format!("{text} x"), "has bytes after the JSON object"),
        ("a member twice", text.replacen('{', "{\"method\":\"GET\",", 1), "the member 'method' appears twice"),
        (
            "a member of another name",
            good().member("extra", 1).text(),
            "has members besides url, method, headers and body",
        ),
        (
            "nesting",
            text.replacen('{', &format!("{{\"x\":{}{},", "[".repeat(40), "]".repeat(40)), 1),
            "nests too deeply",
        ),
        ("half a percent sign", "%7B%7".into(), "is not properly percent-encoded"),
        ("percent signs of half a document", "%7Bx".into(), "is not acceptable JSON"),
        // Method and URL.
        ("PUT", good().member("method", "PUT").text(), "has a method other than POST and GET"),
        ("post", good().member("method", "post").text(), "has a method other than POST and GET"),
        ("a method with a path", good().member("method", "POST /x").text(), "has a method other than POST and GET"),
        (
            "a method that is a list",
            good().member("method", json!(["POST"])).text(),
            "has no 'method' that is a string",
        ),
        ("no URL", good().member("url", Value::Null).text(), "has no 'url' that is a string"),
        ("http", good().url(&format!("http://sts.amazonaws.com/?{QUERY}")).text(), "has a URL that is not https"),
        ("HTTPS", good().url(&format!("HTTPS://sts.amazonaws.com/?{QUERY}")).text(), "has a URL that is not https"),
        (
            "a host that begins alike",
            good().url(&format!("https://sts.amazonaws.com.evil.example/?{QUERY}")).text(),
            HOST,
        ),
        ("a host that ends alike", good().url(&format!("https://evil-sts.amazonaws.com/?{QUERY}")).text(), HOST),
        ("a host below", good().url(&format!("https://x.sts.amazonaws.com/?{QUERY}")).text(), HOST),
        ("a region that is none", good().url(&format!("https://sts.nowhere-1.amazonaws.com/?{QUERY}")).text(), HOST),
        ("two regions", good().url(&format!("https://sts.us-east-1.us-east-1.amazonaws.com/?{QUERY}")).text(), HOST),
        (
            "China's domain, another region",
            good().url(&format!("https://sts.us-east-1.amazonaws.com.cn/?{QUERY}")).text(),
            HOST,
        ),
        ("another service", good().url(&format!("https://iam.amazonaws.com/?{QUERY}")).text(), HOST),
        ("an address", good().url(&format!("https://169.254.169.254/?{QUERY}")).text(), HOST),
        ("a host in capitals", good().url(&format!("https://STS.amazonaws.com/?{QUERY}")).text(), HOST),
        ("a host with a dot after it", good().url(&format!("https://sts.amazonaws.com./?{QUERY}")).text(), HOST),
        ("a host with a NUL", good().url(&format!("https://sts.amazonaws.com\u{0}/?{QUERY}")).text(), HOST),
        (
            "a host with a full-width dot",
            good().url(&format!("https://sts\u{ff0e}amazonaws.com/?{QUERY}")).text(),
            HOST,
        ),
        ("a user", good().url(&format!("https://user@sts.amazonaws.com/?{QUERY}")).text(), HOST),
        ("the host as a user", good().url(&format!("https://sts.amazonaws.com@evil.example/?{QUERY}")).text(), HOST),
        ("another port", good().url(&format!("https://sts.amazonaws.com:8443/?{QUERY}")).text(), HOST),
        ("a fragment before the path", good().url(&format!("https://sts.amazonaws.com#/?{QUERY}")).text(), HOST),
        ("a backslash", good().url(&format!("https://evil.example\\@sts.amazonaws.com/?{QUERY}")).text(), HOST),
        (
            "the host as a path",
            good().url(&format!("https://evil.example/sts.amazonaws.com/?{QUERY}")).text(),
            "has a URL with a path other than /",
        ),
        (
            "two slashes",
            good().url(&format!("https://sts.amazonaws.com//?{QUERY}")).text(),
            "has a URL with a path other than /",
        ),
        (
            "a path",
            good().url(&format!("https://sts.amazonaws.com/x?{QUERY}")).text(),
            "has a URL with a path other than /",
        ),
        ("no query", good().url("https://sts.amazonaws.com/").text(), "has a URL without a query"),
        ("an empty query", good().url("https://sts.amazonaws.com/?").text(), ACTION),
        ("no version", good().url("https://sts.amazonaws.com/?Action=GetCallerIdentity").text(), ACTION),
        ("another version", good().url(&URL.replace("2011-06-15", "2010-01-01")).text(), ACTION),
        ("another action", good().url(&URL.replace("GetCallerIdentity", "AssumeRole")).text(), ACTION),
        ("a second action", good().url(&format!("{URL}&Action=AssumeRole")).text(), ACTION),
        ("the action twice", good().url(&format!("{URL}&Action=GetCallerIdentity")).text(), ACTION),
        ("an ampersand more", good().url(&format!("{URL}&")).text(), ACTION),
        ("a fragment", good().url(&format!("{URL}#x")).text(), ACTION),
        ("an encoded ampersand", good().url(&URL.replace("Identity&", "Identity%26x&")).text(), ACTION),
        ("the action in small letters", good().url(&URL.replace("Action", "action")).text(), ACTION),
        ("a request line", good().url(&format!("{URL} HTTP/1.1")).text(), ACTION),
        ("the signature in the query", good().url(&format!("{URL}&X-Amz-Signature=0")).text(), ACTION),
        // Headers.
        ("no headers", good().member("headers", Value::Null).text(), "has no list of headers"),
        (
            "headers as an object",
            good().member("headers", json!({"host": "sts.amazonaws.com"})).text(),
            "has no list of headers",
        ),
        (
            "seventeen headers",
            (0..14).fold(good(), |d, _| d.header("accept", "x")).text(),
            "an array has more than 16 elements",
        ),
        (
            "a header with a third member",
            text.replace("\"key\":\"host\"", "\"key\":\"host\",\"more\":1"),
            "has a header that is not {key, value}",
        ),
        (
            "a header whose value is a list",
            text.replace("\"sts.amazonaws.com\"}", "[\"sts.amazonaws.com\"]}"),
            "has a header that is not {key, value}",
        ),
        ("a header twice", good().header("X-Amz-Date", "20261122T120000Z").text(), "has the header 'x-amz-date' twice"),
        (
            "a header twice in another case",
            good().header("HOST", "sts.amazonaws.com").text(),
            "has the header 'host' twice",
        ),
        (
            "a forwarding header",
            good().header("X-Forwarded-For", "1.2.3.4").text(),
            "has a header that is not accepted; only authorization,",
        ),
        (
            "a forwarded host",
            good().header("X-Forwarded-Host", "evil.example").text(),
            "has a header that is not accepted",
        ),
        ("a hop-by-hop header", good().header("Connection", "X-Amz-Date").text(), "has a header that is not accepted"),
        ("chunks", good().header("Transfer-Encoding", "chunked").text(), "has a header that is not accepted"),
        (
            "an action in a header",
            good().header("X-Amz-Target", "AssumeRole").text(),
            "has a header that is not accepted",
        ),
        ("a name with a space", good().header("x-amz-date ", "x").text(), "has a header that is not accepted"),
        (
            "a name with a line break",
            good().header("x-sallyport-audience\r\n", "x").text(),
            "has a header that is not accepted",
        ),
        ("a line break", good().header("X-Amz-Security-Token", "a\r\nHost: evil.example").text(), VALUE),
        ("folding", good().header("X-Amz-Security-Token", "a\r\n b").text(), VALUE),
        ("a tab", good().header("x-sallyport-audience", "a\tb").text(), VALUE),
        ("padding", good().header("x-sallyport-audience", " padded").text(), VALUE),
        ("two spaces", good().header("x-sallyport-audience", "two  spaces").text(), VALUE),
        ("a letter beyond ASCII", good().header("x-sallyport-audience", "ä").text(), VALUE),
        ("an empty value", good().header("x-sallyport-audience", "").text(), VALUE),
        (
            "another host",
            good().with("host", "sts.eu-west-1.amazonaws.com").text(),
            "has a 'host' header that differs from its URL's host",
        ),
        ("no date", good().without("X-Amz-Date").text(), "has no 'x-amz-date' header"),
        (
            "a date of another form",
            good().with("X-Amz-Date", "2026-11-22T12:00:00Z").text(),
            "has an 'x-amz-date' that is not of the form YYYYMMDD'T'HHMMSS'Z'",
        ),
        (
            "a thirteenth month",
            good().with("X-Amz-Date", "20261322T120000Z").text(),
            "has an 'x-amz-date' that is not of the form",
        ),
        (
            "an unsigned session token",
            good().header("X-Amz-Security-Token", "token").text(),
            "does not sign the header 'x-amz-security-token'",
        ),
        // Body.
        (
            "another content type",
            good().header("Content-Type", "text/plain").text(),
            "has a content type other than application/x-www-form-urlencoded",
        ),
        ("JSON", good().header("Content-Type", "application/x-amz-json-1.1").text(), "has a content type other than"),
        (
            "another length",
            good().header("Content-Type", FORM).header("Content-Length", "44").text(),
            "has a 'content-length' that is not that of a GetCallerIdentity request",
        ),
        (
            "a length with a zero in front",
            good().header("Content-Type", FORM).header("Content-Length", "043").text(),
            "has a 'content-length' that is not that",
        ),
        (
            "a length of GET",
            good().member("method", "GET").header("Content-Length", "43").text(),
            "has a 'content-length' that is not that",
        ),
        (
            "another body",
            good().member("body", "Action=AssumeRole").text(),
            "has a body other than that of a GetCallerIdentity request",
        ),
        (
            "a body that is an object",
            good().member("body", json!({})).text(),
            "has a body other than that of a GetCallerIdentity request",
        ),
        // Authorization.
        ("no authorization", good().without("Authorization").text(), "has no 'authorization' header"),
        (
            "another algorithm",
            good().authorization("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256").text(),
            "is not signed with AWS4-HMAC-SHA256",
        ),
        ("Bearer", good().authorization("AWS4-HMAC-SHA256", "Bearer").text(), "is not signed with AWS4-HMAC-SHA256"),
        ("another service's scope", good().authorization("/sts/", "/iam/").text(), UNREADABLE),
        ("a longer scope", good().authorization("aws4_request", "aws4_request/x").text(), UNREADABLE),
        ("a key of another form", good().authorization("AKIAIOSFODNN7EXAMPLE", "akia").text(), UNREADABLE),
        ("an empty signature", good().authorization("Signature=0", "Signature=").text(), UNREADABLE),
        ("a signature in capitals", good().authorization("Signature=0", "Signature=A").text(), UNREADABLE),
        ("two signatures", good().authorization("Signature=0", "Signature=0, Signature=0").text(), UNREADABLE),
        ("the fields in another order", good().authorization("SignedHeaders=host;x-amz-date, ", "").text(), UNREADABLE),
        (
            "another day",
            good().authorization("20261122", "20261121").text(),
            "is signed for another day than its 'x-amz-date'",
        ),
        (
            "another region",
            good().authorization("us-east-1", "eu-west-1").text(),
            "is signed for another region than its host's",
        ),
        ("the host is not signed", good().signing("x-amz-date").text(), "does not sign the header 'host'"),
        ("the date is not signed", good().signing("host").text(), "does not sign the header 'x-amz-date'"),
        (
            "signed headers out of order",
            good().signing("x-amz-date;host").text(),
            "has SignedHeaders that are not sorted, each once",
        ),
        (
            "a signed header twice",
            good().signing("host;host;x-amz-date").text(),
            "has SignedHeaders that are not sorted, each once",
        ),
        ("a signed header that is missing", good().signing("host;x-amz-date;x-amz-security-token").text(), SIGNS),
        ("a signed binding that is missing", good().signing("host;x-amz-date;x-sallyport-audience").text(), SIGNS),
        ("a signed header beyond the list", good().signing("host;user-agent;x-amz-date").text(), SIGNS),
        ("authorization signing itself", good().signing("authorization;host;x-amz-date").text(), SIGNS),
    ];
    for (what, document, reason) in table {
        let refusal = refusal(&document);
        assert!(refusal.contains(reason), "{what}: {refusal}");
    }
}

#[test]
fn what_must_not_be_refused() {
    let text = good().text();
    for (what, document) in [
        ("white space around", format!("\r\n{text} ")),
        ("percent-encoded as a whole", text.bytes().map(|byte| format!("%{byte:02X}")).collect()),
        ("an empty path", good().url(&URL.replace("/?", "?")).text()),
        ("the port", good().url(&URL.replace(".com/", ".com:443/")).text()),
        (
            "the parameters in another order",
            good().url("https://sts.amazonaws.com/?Version=2011-06-15&Action=GetCallerIdentity").text(),
        ),
        ("GET", good().member("method", "GET").text()),
        ("the body sent along", good().header("Content-Type", FORM).member("body", QUERY).text()),
        ("an empty body", good().member("body", "").text()),
        ("a length of nothing", good().header("Content-Length", "0").text()),
        ("a charset", good().header("Content-Type", "application/x-www-form-urlencoded; charset=utf-8").text()),
        ("an unsigned binding header, which says nothing", good().header("x-sallyport-audience", "me").text()),
        (
            "a session token",
            good().signing("host;x-amz-date;x-amz-security-token").header("X-Amz-Security-Token", "a/+=").text(),
        ),
    ] {
        let outcome = SignedRequest::parse(&document);
        assert!(outcome.is_ok(), "{what}: {outcome:?}");
    }
}

const XML: &str = "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
    <GetCallerIdentityResult><Arn>arn:aws:iam::123456789012:user/Alice</Arn>\
    <UserId>AIDACKCEVSQ6C2EXAMPLE</UserId><Account>123456789012</Account></GetCallerIdentityResult>\
    <ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></GetCallerIdentityResponse>";

#[test]
fn answers_of_sts_that_must_be_refused() {
    let account = "<Account>123456789012</Account>";
    let changed = |from: &str, to: &str| {
        assert!(XML.contains(from));
        XML.replace(from, to)
    };
    let broken = "it is not well-formed XML";
    let lacks = "it lacks account, ARN or user id";
    let strange = "it has an element that does not belong there";
    let besides = "it has something besides elements and text";
    let between = "it has text between its elements";
    let shape = "its ARN or user id is not of the usual form";
    let misfit = "its ARN and user id do not fit together";
    let table = [
        ("nothing", String::new(), besides),
        ("half a tag", "<".into(), broken),
        ("another namespace", changed("2011-06-15", "2010-01-01"), "its root is of another namespace"),
        (
            "no namespace",
            changed(" xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"", ""),
            "its root is of another namespace",
        ),
        ("another result", changed("GetCallerIdentityResult", "AssumeRoleResult"), strange),
        ("no account", changed(account, ""), lacks),
        ("the account twice", changed(account, &format!("{account}{account}")), strange),
        ("an element in the account", changed(account, "<Account><x/>123456789012</Account>"), besides),
        ("a reference", changed(account, "<Account>1234&#53;6789012</Account>"), besides),
        ("CDATA", changed(account, "<Account><![CDATA[123456789012]]></Account>"), besides),
        ("a comment", changed(account, "<Account>1234<!-- x -->56789012</Account>"), besides),
        ("an attribute", changed(account, "<Account a=\"b\">123456789012</Account>"), "an element has attributes"),
        ("an empty account", changed(account, "<Account/>"), besides),
        ("an account in the metadata", changed("<RequestId>r</RequestId>", account), strange),
        ("no end", changed("</GetCallerIdentityResponse>", ""), besides),
        ("an end that does not fit", changed("</Arn>", "</UserId>"), broken),
        ("a document type", format!("<!DOCTYPE x [<!ENTITY a \"b\">]>{XML}"), besides),
        ("a processing instruction", format!("<?php x ?>{XML}"), besides),
        ("two roots", format!("{XML}{XML}"), strange),
        ("text after it", format!("{XML}trailing"), between),
        ("a root around it", format!("<wrap>{XML}</wrap>"), "its root is of another namespace"),
        (
            "a second result",
            changed(
                "</GetCallerIdentityResult>",
                "</GetCallerIdentityResult><GetCallerIdentityResult></GetCallerIdentityResult>",
            ),
            strange,
        ),
        ("an account too short", changed("123456789012", "12345678901"), "its account is not an account id"),
        (
            "an account with letters",
            changed(account, "<Account>12345678901a</Account>"),
            "its account is not an account id",
        ),
        (
            "white space in the account",
            changed(account, "<Account> 123456789012</Account>"),
            "its account is not an account id",
        ),
        (
            "an ARN of another account",
            changed(account, "<Account>999999999999</Account>"),
            "its ARN is of another account than it says",
        ),
        (
            "an ARN of another partition",
            changed("arn:aws:", "arn:aws-cn:"),
            "its ARN is of another partition than the endpoint",
        ),
        ("an ARN with a region", changed("iam::", "iam:us-east-1:"), "its ARN is not of the usual form"),
        ("an ARN with a space", changed("Alice", "Al ice"), shape),
        ("an ARN beyond ASCII", changed("Alice", "Älice"), shape),
        ("an empty ARN", changed("arn:aws:iam::123456789012:user/Alice", ""), shape),
        ("an ARN of 3 KiB", changed("Alice", &"a".repeat(3_000)), shape),
        ("a group", changed("user/Alice", "group/Deploy"), misfit),
        ("another service", changed(":iam:", ":s3:"), misfit),
        ("a user id with a session", changed("AIDACKCEVSQ6C2EXAMPLE", "AROACKCEVSQ6C2EXAMPLE:Alice"), misfit),
        ("a root with a user's id", changed("user/Alice", "root"), misfit),
        (
            "a session without a session",
            changed(":iam::123456789012:user/Alice", ":sts::123456789012:assumed-role/Deploy"),
            misfit,
        ),
        (
            "a session of another name",
            changed(":iam::123456789012:user/Alice", ":sts::123456789012:assumed-role/Deploy/run"),
            misfit,
        ),
        (
            "a session with a path",
            changed(":iam::123456789012:user/Alice", ":sts::123456789012:assumed-role/a/b/c"),
            misfit,
        ),
    ];
    let read = |body: &str| Caller::read("sts.amazonaws.com", Some("text/xml"), body.as_bytes());
    assert_eq!(read(XML).unwrap().arn(), "arn:aws:iam::123456789012:user/Alice");
    for (what, body, reason) in table {
        assert_eq!(read(&body).map(drop), Err(reason), "{what}");
    }
    let json = json!({"GetCallerIdentityResponse": {"GetCallerIdentityResult":
        {"Account": "123456789012", "Arn": "arn:aws:iam::123456789012:user/Alice", "UserId": "AIDACKCEVSQ6C2EXAMPLE"}}});
    let read = |body: &str| Caller::read("sts.amazonaws.com", Some("application/json"), body.as_bytes()).map(drop);
    let text = json.to_string();
    assert_eq!(read(&text), Ok(()));
    for (what, body, reason) in [
        ("XML", XML.to_owned(), "it is not acceptable JSON"),
        (
            "a member twice",
            text.replacen("\"Arn\"", "\"Account\":\"999999999999\",\"Arn\"", 1),
            "it is not acceptable JSON",
        ),
        ("another member at the top", text.replacen('{', "{\"x\":1,", 1), "it is not a GetCallerIdentityResponse"),
        ("an error", json!({"Error": {"Code": "AccessDenied"}}).to_string(), "it is not a GetCallerIdentityResponse"),
        ("a number as account", text.replace("\"123456789012\"", "123456789012"), lacks),
    ] {
        assert_eq!(read(&body), Err(reason), "{what}");
    }
    let typed = |host: &str, content_type: Option<&str>| Caller::read(host, content_type, XML.as_bytes()).map(drop);
    assert_eq!(typed("sts.amazonaws.com", Some("text/html")), Err("it is neither XML nor JSON"));
    assert_eq!(typed("sts.amazonaws.com", None), Err("it is neither XML nor JSON"));
    assert_eq!(typed("sts.evil.example", Some("text/xml")), Err("it is not from an AWS STS endpoint"));
    assert_eq!(
        typed("sts.cn-north-1.amazonaws.com.cn", Some("text/xml")),
        Err("its ARN is of another partition than the endpoint")
    );
}

#[test]
fn callers_of_every_kind_are_read() {
    for (arn, user_id) in [
        ("arn:aws:sts::123456789012:assumed-role/Deploy/run-1", "AROACKCEVSQ6C2EXAMPLE:run-1"),
        ("arn:aws:iam::123456789012:user/division/Alice", "AIDACKCEVSQ6C2EXAMPLE"),
        ("arn:aws:iam::123456789012:role/path/Deploy", "AROACKCEVSQ6C2EXAMPLE"),
        ("arn:aws:iam::123456789012:root", "123456789012"),
        ("arn:aws:sts::123456789012:federated-user/Bob", "123456789012:Bob"),
    ] {
        let body = XML.replace("arn:aws:iam::123456789012:user/Alice", arn).replace("AIDACKCEVSQ6C2EXAMPLE", user_id);
        let caller = Caller::read(
            "sts.amazonaws.com",
            Some("text/xml"),
            format!("<?xml version=\"1.0\"?>\n{body}\n").as_bytes(),
        );
        let caller = caller.unwrap_or_else(|why| panic!("{arn}: {why}"));
        assert_eq!((caller.account(), caller.arn(), caller.user_id()), ("123456789012", arn, user_id));
    }
}
