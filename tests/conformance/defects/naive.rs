//! A transport over sockets as one writes it in an hour: no handshake, no checksum, no time-out, no
//! queue with a limit.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::io::{AsyncReadExt as _, AsyncWriteExt as _};
use kontiki::GroupId;
use kontiki::runtime::sim::SimProcess;
use kontiki::runtime::{BoxStream, ByteReader, Net as _, Runtime as _};
use kontiki::transport::{Inbox, Message, Peer, StreamRefused, Transport, TransportError};

pub(super) struct Naive {
    process: Arc<SimProcess>,
    inboxes: Arc<Mutex<BTreeMap<GroupId, Arc<dyn Inbox>>>>,
}

impl Naive {
    pub(super) async fn listen(process: Arc<SimProcess>) -> (Arc<dyn Transport>, String) {
        let mut listener = process.listen("host:0").await.unwrap();
        let address = listener.local_address().unwrap();
        let transport = Arc::new(Self { process: Arc::clone(&process), inboxes: Arc::default() });
        let inboxes = Arc::clone(&transport.inboxes);
        let runtime = Arc::clone(&process);
        process.spawn(Box::pin(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let inboxes = Arc::clone(&inboxes);
                runtime.spawn(Box::pin(async move {
                    // Who sends nonsense hears nothing.
                    let _ = serve(stream, &inboxes).await;
                }));
            }
        }));
        (transport, address)
    }
}

/// One byte for what comes, the length of a message, the message, and what belongs to it.
async fn serve(
    mut stream: BoxStream,
    inboxes: &Mutex<BTreeMap<GroupId, Arc<dyn Inbox>>>,
) -> io::Result<()> {
    let mut head = [0; 5];
    stream.read_exact(&mut head).await?;
    let len = u32::from_le_bytes(head[1..].try_into().unwrap());
    let mut bytes = vec![0; len.min(1 << 24) as usize];
    stream.read_exact(&mut bytes).await?;
    let Ok(message) = Message::decode(bytes.into()) else { return Ok(()) };
    let inbox = inboxes.lock().unwrap().get(&message.group()).cloned();
    let Some(inbox) = inbox else { return Ok(()) };
    if head[0] == 0 {
        inbox.deliver(message);
        return Ok(());
    }
    let (body, mut answer) = stream.split();
    let verdict = inbox.receive_stream(message, Box::pin(body)).await;
    answer.write_all(&[u8::from(verdict.is_err())]).await?;
    answer.close().await
}

fn framed(kind: u8, message: &Message) -> Vec<u8> {
    let bytes = message.encode().into_bytes();
    let mut framed = vec![kind];
    framed.extend((bytes.len() as u32).to_le_bytes());
    framed.extend(&bytes);
    framed
}

#[async_trait]
impl Transport for Naive {
    fn attach(&self, inbox: Arc<dyn Inbox>) {
        self.inboxes.lock().unwrap().insert(inbox.local().group, inbox);
    }

    fn send(&self, peer: &Peer, message: Message) -> Result<(), TransportError> {
        let inbox = self.inboxes.lock().unwrap().get(&message.group()).cloned();
        let (inbox, process, peer) = (inbox.unwrap(), Arc::clone(&self.process), peer.clone());
        self.process.spawn(Box::pin(async move {
            let sent = async {
                let mut stream = process.dial(&peer.address).await?;
                stream.write_all(&framed(0, &message)).await
            };
            if let (Err(_), Some(id)) = (sent.await, peer.id) {
                inbox.unreachable(id);
            }
        }));
        Ok(())
    }

    async fn send_stream(
        &self,
        peer: &Peer,
        head: Message,
        body: ByteReader,
    ) -> Result<(), TransportError> {
        let sent = async {
            let mut stream = self.process.dial(&peer.address).await?;
            stream.write_all(&framed(1, &head)).await?;
            futures::io::copy(body, &mut stream).await?;
            stream.close().await?;
            let mut verdict = [1];
            stream.read_exact(&mut verdict).await?;
            Ok::<_, io::Error>(verdict[0])
        };
        match sent.await {
            Ok(0) => Ok(()),
            Ok(_) => Err(TransportError::Refused(StreamRefused::Busy)),
            Err(error) => Err(TransportError::Unreachable { reason: error.to_string() }),
        }
    }

    async fn detach(&self, group: GroupId) {
        self.inboxes.lock().unwrap().remove(&group);
    }
}
