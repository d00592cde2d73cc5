package netstack

// hostPort is the gVisor stack as the fabric sees it.
type hostPort interface {
	// inject hands packets to the stack that leave the overlay: egress,
	// gateways, the node's own mesh address, replies to clients of published
	// ports. It may be called by many goroutines at once, must not block for
	// long, and borrows the packets (see packet). Sources were checked;
	// super-packets and partial checksums are possible.
	inject(pkts []packet)
}

// A fabric moves packets between links, the mesh and the stack.
type fabric struct {
	cfg    Config
	tables func() *tables
	host   hostPort // set once, before the first packet
}

// fromHost routes packets of the stack by destination: to the link of a local
// task, or, for the mesh address of a peer, to the mesh. Everything else is
// dropped. The packets are borrowed (see packet). hdr must be right: a zero hdr
// means a finished checksum and no super-packet.
func (f *fabric) fromHost(pkts []packet) {
	panic("contract")
}

func (f *fabric) detach(l *Link) error { panic("contract") }
