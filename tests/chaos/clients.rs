//! Clients that send half a request, or nothing at all, and stay.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::report::{self, Fault};
use super::{RECOVERY, Stage, scenario};
use crate::support::{Setup, World};

/// Connections of each slow kind.
const EACH: usize = 25;
/// How many files and connections the server may have open then: fewer than there are slow clients.
const DESCRIPTORS: u32 = 120;
/// Credentials handed out beside them.
const BETWEEN: u64 = 20;

/// How a client dawdles.
#[derive(Clone, Copy, Debug)]
enum Slow {
    /// Connects and says nothing.
    Silent,
    /// One letter, which could be the first of either protocol.
    OneLetter,
    /// Half of HTTP/2's greeting.
    HalfAGreeting,
    /// The whole greeting, and nothing after.
    Greeting,
    /// Half a head.
    HalfAHead,
    /// A head, byte by byte, without an end.
    Trickle,
    /// A whole head and half a body.
    HalfABody,
}

impl Slow {
    const ALL: [Self; 7] = [
        Self::Silent,
        Self::OneLetter,
        Self::HalfAGreeting,
        Self::Greeting,
        Self::HalfAHead,
        Self::Trickle,
        Self::HalfABody,
    ];

    /// What it sends at first.
    fn opening(self) -> &'static str {
        match self {
            Self::Silent => "",
            Self::OneLetter => "P",
            Self::HalfAGreeting => "PRI * HTTP/2.0\r\n",
            Self::Greeting => "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            Self::HalfAHead | Self::Trickle => "POST /auth/v1/token HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
            Self::HalfABody => {
                "POST /auth/v1/token HTTP/1.1\r\nHost: localhost\r\n\
                 Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000\r\n\r\ngrant_type="
            }
        }
    }

    /// Stays until the server has had enough.
    async fn stay(self, address: String) {
        let Ok(mut stream) = TcpStream::connect(&address).await else { return };
        let _ = stream.write_all(self.opening().as_bytes()).await;
        let (mut from, mut to) = stream.split();
        let mut answer = Vec::new();
        let dawdle = async {
            loop {
                tokio::time::sleep(Duration::from_millis(200)).await;
                if matches!(self, Self::Trickle) && to.write_all(b"x").await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            _ = from.read_to_end(&mut answer) => {}
            () = dawdle => {}
        }
    }
}

/// Waits until the server has cut them all off.
async fn cut_off(mut clients: JoinSet<()>) {
    while let Some(client) = tokio::time::timeout(RECOVERY, clients.join_next()).await.expect("cut off in time") {
        client.expect("a client");
    }
}

#[test]
fn slow_clients_stop_nobody_else_and_are_cut_off() {
    scenario(Fault::SlowClients, async {
        let world = World::with(Setup::on_sqlite).await;
        let mut stage = Stage::new(Fault::SlowClients, 1, &world).await;
        let address = world.server.url.strip_prefix("http://").expect("plain HTTP").to_owned();
        while stage.rounds.more() {
            let gate = stage.gate(&world).await;
            let load = stage.load(&gate, &[&world]);
            stage.end_something(&world).await;
            stage.granted(BETWEEN).await;
            let (mut soon, mut later) = (JoinSet::new(), JoinSet::new());
            for (slow, _) in Slow::ALL.into_iter().flat_map(|slow| (0..EACH).map(move |number| (slow, number))) {
                let patient = matches!(slow, Slow::Greeting | Slow::HalfABody);
                let clients = if patient { &mut later } else { &mut soon };
                clients.spawn(slow.stay(address.clone()));
            }
            stage.granted(BETWEEN).await;
            assert_eq!(load.stop().await, 0, "slow clients held up others");

            // Now there are more of them than the server may have connections: new clients wait, until the slow are cut off.
            world.server.limit_descriptors(DESCRIPTORS);
            let load = stage.load(&gate.of_new_clients(), &[&world]);
            let recovery = stage.granted(BETWEEN).await;
            world.server.limit_descriptors(4_096);
            cut_off(soon).await;
            if report::is_long_run() {
                cut_off(later).await;
            }
            load.stop().await;
            stage.conclude(&[&world], &gate, recovery).await;
        }
        stage.finish(&[&world]).await;
    });
}
