//! A TCP forwarder on loopback: the network between a server and its database or issuer, with its faults.
//!
//! It knows nothing of what it carries. A switch-over to another target cuts every connection, as moving a service's
//! address does; silence keeps them open and carries nothing, as a network does that drops packets.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What becomes of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// They are carried.
    Flows,
    /// They are kept until traffic flows again. New connections are taken, and hear nothing.
    Silent,
    /// There is no way: open connections are cut and new ones closed at once.
    Cut,
}

#[derive(Debug, Clone, Copy)]
struct Route {
    target: SocketAddr,
    traffic: Traffic,
    /// Connections made before a switch-over do not survive it.
    era: u64,
}

/// A running forwarder. Dropping it closes the port and cuts every connection.
pub struct Forwarder {
    address: SocketAddr,
    route: Arc<watch::Sender<Route>>,
    accepting: JoinHandle<()>,
}

impl Forwarder {
    /// Listens on a free port of 127.0.0.1 within the current tokio runtime, and forwards to `target`.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("a port for the forwarder")?;
        let address = listener.local_addr()?;
        let (route, seen) = watch::channel(Route { target, traffic: Traffic::Flows, era: 0 });
        Ok(Self { address, route: Arc::new(route), accepting: tokio::spawn(accept(listener, seen)) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on forwards to `target`, and cuts what is open.
    pub fn redirect(&self, target: SocketAddr) {
        self.route.send_modify(|route| {
            route.target = target;
            route.era += 1;
        });
    }

    /// From now on does this with what it carries.
    pub fn set_traffic(&self, traffic: Traffic) {
        self.route.send_modify(|route| {
            route.traffic = traffic;
            route.era += u64::from(traffic == Traffic::Cut);
        });
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Accepts until aborted. The set owns the connections, so they end with it.
async fn accept(listener: TcpListener, route: watch::Receiver<Route>) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let route = route.clone();
                    open.spawn(async move {
                        if let Err(error) = forward(stream, route).await {
                            tracing::debug!(%error, "forwarder: connection ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "forwarder could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = open.join_next() => {}
        }
    }
}

async fn forward(near: TcpStream, mut route: watch::Receiver<Route>) -> io::Result<()> {
    let era = route.borrow_and_update().era;
    let mut carried = route.clone();
    let carry = async {
        let target = flowing(&mut carried).await?.target;
        let far = TcpStream::connect(target).await?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        let (from_near, to_near) = near.into_split();
        let (from_far, to_far) = far.into_split();
        tokio::try_join!(pump(from_near, to_far, carried.clone()), pump(from_far, to_near, carried)).map(|_| ())
    };
    tokio::select! {
        ended = carry => ended,
        _ = route.wait_for(|route| route.traffic == Traffic::Cut || route.era != era) => Ok(()),
    }
}

/// One direction, to its end.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut route: watch::Receiver<Route>) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await?;
        flowing(&mut route).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
    }
}

/// Waits until bytes are carried.
async fn flowing(route: &mut watch::Receiver<Route>) -> io::Result<Route> {
    let gone = |_| io::Error::new(io::ErrorKind::NotConnected, "the forwarder is gone");
    route.wait_for(|route| route.traffic == Traffic::Flows).await.map(|route| *route).map_err(gone)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers each byte with its own mark.
    async fn marked(mark: u8) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(
                    async move { while stream.read_u8().await.is_ok() && stream.write_u8(mark).await.is_ok() {} },
                );
            }
        });
        address
    }

    async fn ask(stream: &mut TcpStream) -> io::Result<u8> {
        stream.write_u8(0).await?;
        stream.read_u8().await
    }

    #[tokio::test]
    async fn carries_falls_silent_cuts_and_switches_over() {
        let (first, second) = (marked(1).await, marked(2).await);
        let forwarder = Forwarder::start(first).await.unwrap();
        let mut open = TcpStream::connect(forwarder.address()).await.unwrap();
        assert_eq!(ask(&mut open).await.unwrap(), 1);

        forwarder.set_traffic(Traffic::Silent);
        let silence = tokio::time::timeout(Duration::from_millis(100), ask(&mut open)).await;
        assert!(silence.is_err(), "{silence:?}");
        let mut during = TcpStream::connect(forwarder.address()).await.unwrap();
        forwarder.set_traffic(Traffic::Flows);
        assert_eq!(open.read_u8().await.unwrap(), 1, "what was kept arrives");
        assert_eq!(ask(&mut during).await.unwrap(), 1);

        forwarder.redirect(second);
        assert!(ask(&mut open).await.is_err(), "a switch-over cuts what is open");
        let mut fresh = TcpStream::connect(forwarder.address()).await.unwrap();
        assert_eq!(ask(&mut fresh).await.unwrap(), 2);

        forwarder.set_traffic(Traffic::Cut);
        assert!(ask(&mut fresh).await.is_err());
        let mut refused = TcpStream::connect(forwarder.address()).await.unwrap();
        assert!(ask(&mut refused).await.is_err());
        forwarder.set_traffic(Traffic::Flows);
        let mut again = TcpStream::connect(forwarder.address()).await.unwrap();
        assert_eq!(ask(&mut again).await.unwrap(), 2);
    }
}
