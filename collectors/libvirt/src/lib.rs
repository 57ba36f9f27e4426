//! Source: virtual machines of libvirt, over its RPC protocol.
