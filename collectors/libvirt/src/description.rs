//! What a domain's XML says that its statistics do not: Nova's metadata and its devices.
//!
//! Nova writes an element `instance` in its own namespace, version 1.0 or 1.1, with name, flavor,
//! owner and image. Elements are found by path and namespace, whatever prefix is used.

use std::collections::BTreeMap;

use quick_xml::NsReader;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{Namespace, ResolveResult};

const NOVA: [&[u8]; 2] = [
    b"http://openstack.org/xmlns/libvirt/nova/1.0",
    b"http://openstack.org/xmlns/libvirt/nova/1.1",
];
/// Deeper documents are refused; libvirt's own reach about ten.
const MAX_DEPTH: usize = 64;
/// Longest text collected of one element; the rest is dropped. The contract allows half.
const MAX_TEXT: usize = 1_024;
/// Most disks and most interfaces of one domain; further ones are not described.
const MAX_DEVICES: usize = 4_096;

/// The XML cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DescriptionError {
    #[error("not well-formed XML at byte {at}")]
    Xml {
        at: u64,
        #[source]
        cause: quick_xml::Error,
    },
    #[error("elements are nested deeper than {MAX_DEPTH}")]
    Depth,
}

/// What the XML of a domain says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Description {
    /// Nova's metadata, where Nova runs the domain.
    pub(crate) nova: Option<Nova>,
    /// Target name → kind of device: `disk`, `cdrom`, `lun`, `floppy`.
    pub(crate) disks: BTreeMap<String, String>,
    /// Target name → MAC address.
    pub(crate) macs: BTreeMap<String, String>,
}

/// What Nova says of a server; empty where it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nova {
    pub(crate) name: String,
    pub(crate) flavor: String,
    pub(crate) project: String,
    pub(crate) project_name: String,
    pub(crate) user: String,
    pub(crate) user_name: String,
    pub(crate) image: String,
}

#[derive(Default)]
struct Parser {
    /// Local names from the root; Nova's are prefixed `nova:`.
    path: Vec<String>,
    text: String,
    description: Description,
    /// Of the device at hand.
    kind: String,
    target: String,
    mac: String,
}

impl Description {
    /// Reads the XML of one domain; elements of no interest are skipped.
    pub(crate) fn parse(xml: &str) -> Result<Self, DescriptionError> {
        let mut reader = NsReader::from_str(xml);
        let mut parser = Parser::default();
        loop {
            let at = reader.buffer_position();
            let (namespace, event) = reader
                .read_resolved_event()
                .map_err(|cause| DescriptionError::Xml { at, cause })?;
            let nova = matches!(namespace, ResolveResult::Bound(Namespace(name))
                if NOVA.contains(&name));
            match event {
                Event::Start(element) => parser.open(&element, nova)?,
                Event::Empty(element) => {
                    parser.open(&element, nova)?;
                    parser.close();
                }
                Event::End(_) => parser.close(),
                Event::Text(text) => parser.append(&text.decode().unwrap_or_default()),
                Event::CData(text) => parser.append(&text.decode().unwrap_or_default()),
                Event::GeneralRef(reference) => match reference.resolve_char_ref() {
                    Ok(Some(character)) => parser.append(character.encode_utf8(&mut [0; 4])),
                    _ => {
                        let name = reference.decode().unwrap_or_default();
                        parser.append(resolve_xml_entity(&name).unwrap_or_default());
                    }
                },
                Event::Eof => return Ok(parser.description),
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
            }
        }
    }
}

impl Parser {
    fn open(&mut self, element: &BytesStart<'_>, nova: bool) -> Result<(), DescriptionError> {
        if self.path.len() >= MAX_DEPTH {
            return Err(DescriptionError::Depth);
        }
        let name = String::from_utf8_lossy(element.local_name().into_inner()).into_owned();
        self.path.push(if nova { format!("nova:{name}") } else { name });
        self.text.clear();
        let path = self.path.join("/");
        match path.as_str() {
            "domain/devices/disk" => {
                self.kind = attribute(element, "device").unwrap_or_else(|| "disk".to_owned());
                self.target.clear();
            }
            "domain/devices/interface" => {
                self.mac.clear();
                self.target.clear();
            }
            "domain/devices/disk/target" | "domain/devices/interface/target" => {
                self.target = attribute(element, "dev").unwrap_or_default();
            }
            "domain/devices/interface/mac" => {
                self.mac = attribute(element, "address").unwrap_or_default();
            }
            _ => self.open_nova(&path, element),
        }
        Ok(())
    }

    fn open_nova(&mut self, path: &str, element: &BytesStart<'_>) {
        let Some(path) = path.strip_prefix("domain/metadata/nova:instance") else { return };
        let uuid = || attribute(element, "uuid").unwrap_or_default();
        let nova = self.description.nova.get_or_insert_default();
        match path {
            "/nova:flavor" => nova.flavor = attribute(element, "name").unwrap_or_default(),
            "/nova:owner/nova:project" => nova.project = uuid(),
            "/nova:owner/nova:user" => nova.user = uuid(),
            "/nova:image" => nova.image = uuid(),
            "/nova:root" if attribute(element, "type").as_deref() == Some("image") => {
                nova.image = uuid();
            }
            _ => {}
        }
    }

    fn close(&mut self) {
        let text = std::mem::take(&mut self.text);
        let path = self.path.join("/");
        self.path.pop();
        let Description { nova, disks, macs } = &mut self.description;
        let target = || self.target.clone();
        match path.as_str() {
            "domain/devices/disk" if disks.len() < MAX_DEVICES && !self.target.is_empty() => {
                disks.insert(target(), std::mem::take(&mut self.kind));
            }
            "domain/devices/interface"
                if macs.len() < MAX_DEVICES && !self.target.is_empty() && !self.mac.is_empty() =>
            {
                macs.insert(target(), std::mem::take(&mut self.mac));
            }
            _ => {
                let Some(nova) = nova else { return };
                match path.strip_prefix("domain/metadata/nova:instance/nova:") {
                    Some("name") => nova.name = text.trim().to_owned(),
                    Some("owner/nova:project") => nova.project_name = text.trim().to_owned(),
                    Some("owner/nova:user") => nova.user_name = text.trim().to_owned(),
                    _ => {}
                }
            }
        }
    }

    fn append(&mut self, text: &str) {
        let room = MAX_TEXT.saturating_sub(self.text.len());
        self.text.push_str(&text[..text.floor_char_boundary(room)]);
    }
}

fn attribute(element: &BytesStart<'_>, name: &str) -> Option<String> {
    let attribute = element.try_get_attribute(name).ok()??;
    attribute.unescape_value().ok().map(std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SERVER: &str = r#"<domain type='kvm' id='3'>
      <name>instance-0000002a</name>
      <uuid>6e5a3bd2-5ab6-4b8a-9f3c-2b4d7f6a1c01</uuid>
      <metadata>
        <nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1">
          <nova:package version="25.1.0"/>
          <nova:name>shop &amp; till &#x2013; 1</nova:name>
          <nova:creationTime>2026-11-23 03:00:00</nova:creationTime>
          <nova:flavor name="m1.small">
            <nova:memory>2048</nova:memory>
            <nova:disk>20</nova:disk>
            <nova:vcpus>1</nova:vcpus>
          </nova:flavor>
          <nova:owner>
            <nova:user uuid="1f00d1f00d1f00d1f00d1f00d1f00d01">ann</nova:user>
            <nova:project uuid="2f00d2f00d2f00d2f00d2f00d2f00d02">retail</nova:project>
          </nova:owner>
          <nova:root type="image" uuid="3f00d3f0-0d3f-00d3-f00d-3f00d3f00d03"/>
          <nova:ports><nova:port uuid="p"><nova:ip type="fixed" address="10.0.0.3"/></nova:port>
          </nova:ports>
        </nova:instance>
      </metadata>
      <devices>
        <disk type='file' device='disk'>
          <source file='/i/disk'/>
          <mirror><target dev='not-this'/></mirror>
          <target dev='vda' bus='virtio'/>
        </disk>
        <disk type='file' device='cdrom'><target dev='hda'/></disk>
        <disk type='file'><target dev='vdb'/></disk>
        <interface type='bridge'>
          <mac address='fa:16:3e:00:00:01'/><target dev='tap0'/>
        </interface>
        <interface type='user'><mac address='fa:16:3e:00:00:02'/></interface>
      </devices>
    </domain>"#;

    #[test]
    fn a_nova_server_is_described() {
        let description = Description::parse(SERVER).unwrap();
        let nova = description.nova.unwrap();
        assert_eq!(nova.name, "shop & till \u{2013} 1");
        assert_eq!(nova.flavor, "m1.small");
        assert_eq!(nova.project, "2f00d2f00d2f00d2f00d2f00d2f00d02");
        assert_eq!(nova.project_name, "retail");
        assert_eq!((nova.user.len(), nova.user_name.as_str()), (32, "ann"));
        assert_eq!(nova.image, "3f00d3f0-0d3f-00d3-f00d-3f00d3f00d03");
        let disks: Vec<_> = description.disks.into_iter().collect();
        let expected = [("hda", "cdrom"), ("vda", "disk"), ("vdb", "disk")];
        assert_eq!(disks, expected.map(|(dev, kind)| (dev.to_owned(), kind.to_owned())));
        assert_eq!(description.macs["tap0"], "fa:16:3e:00:00:01");
        assert_eq!(description.macs.len(), 1);
    }

    #[test]
    fn the_first_namespace_and_any_prefix_are_known() {
        let xml = SERVER.replace("nova/1.1", "nova/1.0").replace("nova:", "n:");
        let xml = xml.replace("xmlns:nova", "xmlns:n");
        assert_eq!(Description::parse(&xml).unwrap().nova.unwrap().project_name, "retail");
    }

    #[test]
    fn other_metadata_is_not_novas() {
        let xml = SERVER.replace("openstack.org/xmlns/libvirt/nova/1.1", "example.org/other");
        assert_eq!(Description::parse(&xml).unwrap().nova, None);
    }

    #[test]
    fn depth_is_bounded() {
        let xml = "<a>".repeat(100);
        assert!(matches!(Description::parse(&xml), Err(DescriptionError::Depth)));
    }

    proptest! {
        #[test]
        fn damaged_descriptions_never_panic(
            at in 0usize..2_000, replacement in ".{0,6}", cut in 0usize..2_000,
        ) {
            let at = SERVER.floor_char_boundary(at.min(SERVER.len()));
            let xml = format!("{}{replacement}{}", &SERVER[..at], &SERVER[at..]);
            let _ = Description::parse(&xml);
            let _ = Description::parse(&xml[..xml.floor_char_boundary(cut)]);
        }
    }
}
