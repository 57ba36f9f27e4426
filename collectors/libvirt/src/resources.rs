//! A domain and its devices as resources of the contract.
//!
//! A reading may leave sizes out (another operation holds the domain); the size stated before
//! then stands, so that nothing seems to change when it does not.

use std::collections::BTreeMap;

use nilometer_contract::{MAX_TEXT_BYTES, Resource, ResourceKind};

use crate::description::Description;
use crate::protocol::DomainRef;
use crate::stats::{DiskStats, DomainStats};

/// Attributes that hold allocated sizes.
const SIZES: [&str; 3] = ["vcpus", "memory_bytes", "disk_bytes"];

/// Resources by id.
pub(crate) type Children = BTreeMap<String, Resource>;

/// The VM that a domain is.
///
/// Its name is Nova's where Nova runs it, and libvirt's name is then the attribute
/// `instance_name`, as Nova calls it. `previous` is the state stated last.
pub(crate) fn vm(
    domain: &DomainRef,
    node: &str,
    description: &Description,
    stats: &DomainStats,
    previous: Option<&Resource>,
) -> Resource {
    let mut vm = Resource::new(domain.uuid.to_string(), ResourceKind::VM);
    node.clone_into(&mut vm.node);
    vm.parent = (!node.is_empty()).then(|| node.to_owned());
    vm.name = clip(&domain.name);
    if let Some(nova) = &description.nova {
        vm.project = clip(&nova.project);
        set_text(&mut vm, "instance_name", &domain.name);
        set_text(&mut vm, "flavor", &nova.flavor);
        set_text(&mut vm, "project_name", &nova.project_name);
        set_text(&mut vm, "user", &nova.user);
        set_text(&mut vm, "user_name", &nova.user_name);
        set_text(&mut vm, "image", &nova.image);
        if !nova.name.is_empty() {
            vm.name = clip(&nova.name);
        }
    }
    set_size(&mut vm, "vcpus", stats.vcpus, previous);
    set_size(&mut vm, "memory_bytes", stats.balloon.maximum, previous);
    set_size(&mut vm, "disk_bytes", disk_bytes(description, stats), previous);
    let state = stats.state.map(|state| state.as_str().to_owned());
    let state = state.or_else(|| previous?.attributes.get("state").cloned());
    vm.attributes.extend(state.map(|state| ("state".to_owned(), state)));
    vm
}

/// The disks of a VM; nothing when the reading says nothing of disks.
pub(crate) fn disks(
    vm: &Resource,
    description: &Description,
    stats: &DomainStats,
    previous: &Children,
) -> Option<Children> {
    let disks = stats.disks.as_ref()?.values().filter(|disk| !disk.name.is_empty());
    let resources = disks.map(|disk| {
        let mut resource = child(vm, disk_id(vm, disk), ResourceKind::DISK, &disk.name);
        let device = description.disks.get(&disk.name);
        set_text(&mut resource, "device", device.map_or("disk", String::as_str));
        if is_storage(description, disk) {
            let before = previous.get(&resource.id);
            set_size(&mut resource, "disk_bytes", disk.capacity, before);
        }
        (resource.id.clone(), resource)
    });
    Some(resources.collect())
}

/// The interfaces of a VM that count traffic; nothing when the reading says nothing of them.
pub(crate) fn interfaces(
    vm: &Resource,
    description: &Description,
    stats: &DomainStats,
) -> Option<Children> {
    let interfaces = stats.interfaces.as_ref()?.values().filter(|one| !one.name.is_empty());
    let resources = interfaces.map(|interface| {
        let id = interface_id(vm, description, &interface.name);
        let mut resource = child(vm, id, ResourceKind::INTERFACE, &interface.name);
        let mac = description.macs.get(&interface.name);
        set_text(&mut resource, "mac", mac.map_or("", String::as_str));
        (resource.id.clone(), resource)
    });
    Some(resources.collect())
}

/// `<vm>/disk/vda`.
pub(crate) fn disk_id(vm: &Resource, disk: &DiskStats) -> String {
    clip(&format!("{}/disk/{}", vm.id, disk.name))
}

/// `<vm>/interface/<mac>`: the host's name for the interface is new at each start, its address
/// is not. Without an address, the name has to do.
pub(crate) fn interface_id(vm: &Resource, description: &Description, name: &str) -> String {
    let last = description.macs.get(name).map_or(name, String::as_str);
    clip(&format!("{}/interface/{last}", vm.id))
}

/// Gives a resource the sizes that it lacks and `after` has.
pub(crate) fn complete(resource: &mut Resource, after: &Resource) {
    for key in SIZES {
        if let (None, Some(size)) = (resource.attributes.get(key), after.attributes.get(key)) {
            resource.attributes.insert(key.to_owned(), size.clone());
        }
    }
}

/// Cuts a text to what the contract allows, at a character.
fn clip(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT_BYTES)].to_owned()
}

fn child(vm: &Resource, id: String, kind: ResourceKind, name: &str) -> Resource {
    let mut resource = Resource::new(id, kind);
    resource.name = clip(name);
    resource.project.clone_from(&vm.project);
    resource.node.clone_from(&vm.node);
    resource.parent = Some(vm.id.clone());
    resource
}

/// Media that are put in and taken out (and Nova's configuration drive) are not storage that
/// the VM was given.
fn is_storage(description: &Description, disk: &DiskStats) -> bool {
    let device = description.disks.get(&disk.name).map_or("disk", String::as_str);
    matches!(device, "disk" | "lun")
}

/// Sum of the capacities; nothing unless every one is known.
fn disk_bytes(description: &Description, stats: &DomainStats) -> Option<u64> {
    let disks = stats.disks.as_ref()?.values();
    let storage = disks.filter(|disk| is_storage(description, disk));
    storage.map(|disk| disk.capacity).try_fold(0u64, |sum, capacity| sum.checked_add(capacity?))
}

fn set_text(resource: &mut Resource, key: &str, text: &str) {
    if !text.is_empty() {
        resource.attributes.insert(key.to_owned(), clip(text));
    }
}

fn set_size(resource: &mut Resource, key: &str, size: Option<u64>, previous: Option<&Resource>) {
    let text = size.map(|size| size.to_string());
    let text = text.or_else(|| previous?.attributes.get(key).cloned());
    resource.attributes.extend(text.map(|text| (key.to_owned(), text)));
}
