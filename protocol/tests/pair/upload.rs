//! An upload over connections that are cut, to a worker that forgets what was not synced: what is sealed is what was sent.

use spile_protocol::{
    id::Run,
    message::{List, Message, Open, Opened, Seal},
    session::{
        device::{Channel, Config, Credential, Device, Event, Growable},
        edge::{self, Admission, Input, Session},
    },
    time::{Instant, Millis},
};

use crate::seed::Seed;

const NOW: Instant = Instant(1);

pub fn run(seed: &mut Seed) {
    let length = 1 + seed.below(20_000);
    let content: Vec<u8> = (0..length).map(|_| seed.next().to_le_bytes()[0]).collect();
    let mut device = Device::new(
        Config::new(Run([1; 8]), Credential::Certificate, "up"),
        Growable::new(4, 4000),
    );
    // What the worker has, and how much of it is synced.
    let (mut stored, mut synced, mut epoch) = (Vec::new(), 0, 0);
    for _connection in 0..10_000 {
        epoch += 1;
        let steps = 1 + seed.below(60);
        let cut = connection(seed, &mut device, &content, &mut stored, &mut synced, epoch, steps);
        if cut {
            assert_eq!(stored, content);
            return;
        }
        if seed.once_in(3) {
            stored.truncate(synced);
        }
    }
    panic!("it stands still at {synced} of {length}");
}

/// One connection of so many steps: was the upload sealed?
fn connection(
    seed: &mut Seed,
    device: &mut Device<Growable, &'static str>,
    content: &[u8],
    stored: &mut Vec<u8>,
    synced: &mut usize,
    epoch: u32,
    steps: usize,
) -> bool {
    let chunk_bytes = u32::try_from(seed.below(3000)).unwrap();
    let mut session = Session::new(NOW, edge::Config { chunk_bytes, ..edge::Config::default() });
    device.connected(NOW, Channel::Tls(None), [1; 16]);
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let size = u64::try_from(content.len()).unwrap();
    let (mut opened, mut open, mut sealing, mut sealed, mut told) = (false, false, false, false, 0);
    for _ in 0..steps {
        device.poll_transmit(NOW, &mut up);
        if device.is_open() && !opened {
            let (key, name, content_type, meta) = (None, "f", "", List::default());
            device
                .open_upload(
                    &Open { upload: 1, id: [9; 16], size, key, name, content_type, meta },
                    &mut up,
                )
                .unwrap();
            opened = true;
        }
        if let Ok((offset, room)) = device.chunk_room(1) {
            let at = usize::try_from(offset).unwrap();
            let part = &content[at..at + room.min(1 + seed.below(900)).min(content.len() - at)];
            if !part.is_empty() {
                device.chunk(NOW, 1, part, &mut up).unwrap();
            } else if offset == size && open && !sealing {
                sealing = device.seal(&Seal { upload: 1, size, blake3: [0; 32] }, &mut up).is_ok();
            }
        }
        let mut bytes = &up[..];
        while let Some(input) = session.handle_input(NOW, &mut bytes) {
            match input {
                Input::Authenticate(_) => session.admit(NOW, Millis(1), Admission::default()),
                Input::Upstream { message: Message::Open(_), .. } => {
                    (open, told) = (true, *synced);
                    stored.truncate(*synced);
                    answer(&mut session, &mut down, *synced, epoch, "");
                }
                Input::Upstream { message: Message::Chunk(chunk), .. } => {
                    assert_eq!(
                        usize::try_from(chunk.offset).unwrap(),
                        stored.len(),
                        "a hole or a double"
                    );
                    stored.extend(chunk.payload);
                }
                Input::Upstream { message: Message::Seal(_), .. } => sealed = true,
                other => panic!("{other:?}"),
            }
        }
        up = bytes.to_vec();
        if seed.once_in(3) {
            *synced = stored.len();
        }
        if open && *synced > told {
            told = *synced;
            answer(&mut session, &mut down, *synced, epoch, "");
        }
        if sealed && *synced == content.len() {
            answer(&mut session, &mut down, *synced, epoch, "blob");
        }
        session.poll_transmit(NOW, &mut down);
        let mut bytes = &down[..];
        while let Some(event) = device.handle_input(NOW, &mut bytes) {
            match event {
                Event::Stored(opened) if !opened.blob.is_empty() => return true,
                Event::Stored(_) | Event::Welcomed(_) => {}
                other => panic!("{other:?}"),
            }
        }
        down = bytes.to_vec();
    }
    device.disconnected();
    false
}

fn answer(session: &mut Session, down: &mut Vec<u8>, stored: usize, epoch: u32, blob: &str) {
    let stored_offset = u64::try_from(stored).unwrap();
    let opened = Opened { upload: 1, stored_offset, epoch, blob, revision: 1 };
    let _told: edge::Told =
        session.handle_downstream(NOW, &Message::Opened(opened), 0, down).unwrap();
}
