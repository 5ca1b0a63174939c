//! Story: an operator watches the server: metrics on the admin listener, metrics and traces at an OTLP collector.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::Uri;
use axum::routing::post;
use serde_json::json;

use crate::support::{Reply, World, eventually, run};

/// A collector: what came to which path.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(String, Bytes)>>>);

impl Collector {
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let take = |State(collector): State<Self>, uri: Uri, body: Bytes| async move {
            collector.0.lock().unwrap().push((uri.path().to_owned(), body));
        };
        let routes = Router::new()
            .route("/v1/traces", post(take))
            .route("/v1/metrics", post(take))
            .with_state(collector.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        (collector, url)
    }

    /// Everything that came to a path, as text: names and labels stand in protobuf as they are.
    fn text(&self, path: &str) -> String {
        let taken = self.0.lock().unwrap();
        taken.iter().filter(|(p, _)| p == path).map(|(_, body)| String::from_utf8_lossy(body).into_owned()).collect()
    }
}

#[test]
fn traces_and_metrics_go_to_a_collector_and_hold_no_token() {
    run(async {
        let (collector, url) = Collector::start().await;
        let mut world = World::with(|setup| {
            setup
                .set("OTEL_EXPORTER_OTLP_ENDPOINT", &url)
                .set("OTEL_METRIC_EXPORT_INTERVAL", "100")
                .set("OTEL_BSP_SCHEDULE_DELAY", "100")
                .set("SALLYPORT_TRUSTED_PROXIES", "127.0.0.1");
        })
        .await;
        let place = world.place().await;
        let binding = world.binding(&place.space, "watched", &["viewer"]).await;
        let token = world.token("watched", &place.space);
        // As a tracing proxy in front would send it on.
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let body = json!({ "audience": place.space, "issuer_uri": world.issuer.uri(), "jwt_token": token });
        let request = world
            .http
            .post(format!("{}/SecureTokenService/ExchangeExternalToken", world.server.url))
            .header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"))
            .json(&body);
        let reply = Reply::to(request).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        let bearer = world.access_token(&binding.client_id, &token).await;
        let traces = eventually("spans arrive", Duration::from_secs(20), async || {
            let text = collector.text("/v1/traces");
            let all = ["exchange", "verify", "match", "mint", "record", &reply.reference()];
            all.iter().all(|name| text.contains(name)).then_some(text)
        })
        .await;
        let trace: Vec<u8> = (0..16).map(|i| u8::from_str_radix(&trace[2 * i..2 * i + 2], 16).unwrap()).collect();
        let known = collector.0.lock().unwrap().iter().any(|(_, body)| body.windows(16).any(|w| w == trace));
        assert!(known, "the trace goes on where the proxy began it");
        let metrics = eventually("metrics arrive", Duration::from_secs(20), async || {
            let text = collector.text("/v1/metrics");
            let all =
                ["sallyport_exchanges_total", "sallyport_exchange_stage_seconds", "sallyport_trusts", "service.name"];
            all.iter().all(|name| text.contains(name)).then_some(text)
        })
        .await;
        let signature = |token: &str| token.rsplit('.').next().unwrap().to_owned();
        for secret in [signature(&token), signature(&bearer), world.admin.clone(), "PRIVATE KEY".to_owned()] {
            assert!(!traces.contains(&secret) && !metrics.contains(&secret), "{secret}");
        }
        assert_eq!(world.server.terminate(), 0, "what is left is sent, and the process ends");
    });
}

#[test]
fn a_collector_that_is_away_holds_up_nothing() {
    run(async {
        let mut world = World::with(|setup| {
            setup.set("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1").set("OTEL_BSP_SCHEDULE_DELAY", "50");
        })
        .await;
        let place = world.place().await;
        world.binding(&place.space, "unwatched", &[]).await;
        world.credential(&place.space, &world.token("unwatched", &place.space)).await;
        assert_eq!(world.server.terminate(), 0);
    });
}

#[test]
fn every_part_that_can_be_slow_has_a_metric() {
    run(async {
        let world = World::new().await;
        let place = world.place().await;
        world.binding(&place.space, "measured", &[]).await;
        let document = world.credential(&place.space, &world.token("measured", &place.space)).await;
        assert_eq!(world.signed_ping(&document).await, 200);
        assert_eq!(
            world.exchange(&place.space, world.issuer.uri(), &world.token("other", &place.space)).await.status,
            403
        );
        let list = "query($s: String!) { listExchanges(scopeMrn: $s) { totalCount } }";
        world.graphql(list, json!({ "s": place.space })).await;
        // Exchanges do not come by the router, everything else does.
        assert_eq!(world.post_form("/auth/v1/token", &[("grant_type", "unknown")], None).await.status, 400);
        for (path, status) in [("/auth/v1/token", 405), ("/nowhere", 404)] {
            let reply = Reply::to(world.http.get(format!("{}{path}", world.server.url))).await;
            assert_eq!(reply.status, status, "{path}");
        }
        let scrape = async || Reply::to(world.http.get(format!("{}/metrics", world.server.admin_url))).await.text();
        // Gauges are looked up every few seconds.
        let text = eventually("gauges follow", Duration::from_secs(30), async || {
            let text = scrape().await;
            text.contains("\nsallyport_trusts 1\n").then_some(text)
        })
        .await;
        for line in [
            "sallyport_exchanges_total{outcome=\"granted\",reason=\"\"} 1",
            "sallyport_exchanges_total{outcome=\"refused\",reason=\"subject\"} 1",
            "sallyport_credentials_issued_total{kind=\"key_pair\"} 1",
            "sallyport_exchange_stage_seconds_count{stage=\"locate\"} 2",
            "sallyport_exchange_stage_seconds_count{stage=\"verify\"} 2",
            "sallyport_exchange_stage_seconds_count{stage=\"match\"} 2",
            "sallyport_exchange_stage_seconds_count{stage=\"mint\"} 1",
            "sallyport_exchange_stage_seconds_count{stage=\"record\"} 2",
            "sallyport_exchange_duration_seconds_count{protocol=\"rpc\"} 2",
            "sallyport_database_seconds_count{operation=\"record\"} 2",
            "sallyport_database_seconds_count{operation=\"credential\"} 1",
            "sallyport_database_seconds_count{operation=\"list\"} 1",
            "sallyport_http_requests_total{route=\"/SecureTokenService/ExchangeExternalToken\",status=\"200\"} 1",
            "sallyport_http_requests_total{route=\"/SecureTokenService/ExchangeExternalToken\",status=\"403\"} 1",
            "sallyport_http_request_duration_seconds_count{route=\"/SecureTokenService/ExchangeExternalToken\"} 2",
            "sallyport_http_requests_total{route=\"/auth/v1/token\",status=\"400\"} 1",
            "sallyport_http_requests_total{route=\"/auth/v1/token\",status=\"405\"} 1",
            "sallyport_http_request_duration_seconds_count{route=\"/auth/v1/token\"} 2",
            "sallyport_http_requests_total{route=\"none\",status=\"404\"} 1",
            "sallyport_configuration_confirmed 1",
            "sallyport_record_queue_depth 0",
            "sallyport_record_queue_room 512",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        for name in [
            "sallyport_process_resident_memory_bytes",
            "sallyport_process_cpu_seconds_total",
            "sallyport_process_open_fds",
            "sallyport_build_info",
        ] {
            assert!(text.contains(&format!("\n{name}")), "{name} is not in\n{text}");
        }
        // Names are stable and ours; values are no labels.
        for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            assert!(line.starts_with("sallyport_"), "{line}");
            assert!(!line.contains(&place.space) && !line.contains("measured"), "{line}");
        }
    });
}
