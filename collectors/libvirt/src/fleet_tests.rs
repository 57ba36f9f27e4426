//! What readings and events make of the fleet, without a hypervisor.
