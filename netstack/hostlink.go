package netstack

import (
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// hostLink is the link endpoint of the stack's NIC. Packets go straight through it in the goroutine that has them, both ways, with their virtio
// header: a connection's 64 KiB segment reaches the link of the task in one write.
//
// It claims RX checksum offload (what comes from a local task may carry a partial checksum, what comes from a peer was authenticated) but not TX
// checksum offload: gVisor fills the virtio fields for GSO segments only, so a SYN would leave without a checksum.
type hostLink struct {
	out func([]packet) // borrows the packets

	mu         sync.RWMutex
	mtu        uint32
	dispatcher stack.NetworkDispatcher
}

var (
	_ stack.LinkEndpoint = (*hostLink)(nil)
	_ stack.GSOEndpoint  = (*hostLink)(nil)
)

// hostBatch holds the packets of one WritePackets.
var hostBatch = sync.Pool{New: func() any { b := make([]packet, 0, 16); return &b }}

// WritePackets implements stack.LinkWriter. A packet for which there is no buffer is lost, as on a full queue.
func (l *hostLink) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	batch := hostBatch.Get().(*[]packet)
	pkts := (*batch)[:0]
	for _, pb := range list.AsSlice() {
		if p, ok := fromPacketBuffer(pb); ok {
			pkts = append(pkts, p)
		}
	}
	if len(pkts) > 0 {
		l.out(pkts)
		releaseAll(pkts)
	}
	*batch = pkts[:0]
	hostBatch.Put(batch)
	return list.Len(), nil
}

func fromPacketBuffer(pb *stack.PacketBuffer) (packet, bool) {
	p, ok := newPacket(pb.Size())
	if !ok {
		return packet{}, false
	}
	views, skip := pb.AsViewList()
	n := 0
	for v := views.Front(); v != nil; v = v.Next() {
		b := v.AsSlice()
		if skip >= len(b) {
			skip -= len(b)
			continue
		}
		n += copy(p.ip[n:], b[skip:])
		skip = 0
	}
	gso := pb.GSOOptions
	if gso.Type == stack.GSONone || !gso.NeedsCsum {
		return p, true
	}
	l3 := len(pb.NetworkHeader().Slice())
	p.hdr = vnetHdr{flags: vnetNeedsCsum, csumStart: uint16(l3), csumOffset: gso.CsumOffset}
	if pb.Data().Size() > int(gso.MSS) {
		p.hdr.gsoType = gsoTCPv4
		if gso.Type == stack.GSOTCPv6 {
			p.hdr.gsoType = gsoTCPv6
		}
		p.hdr.gsoSize = gso.MSS
		p.hdr.hdrLen = uint16(l3 + len(pb.TransportHeader().Slice()))
	}
	return p, true
}

// deliver gives one IP packet to the stack, which copies it.
func (l *hostLink) deliver(ip []byte) {
	l.mu.RLock()
	d := l.dispatcher
	l.mu.RUnlock()
	if d == nil || len(ip) == 0 {
		return
	}
	var proto tcpip.NetworkProtocolNumber
	switch ip[0] >> 4 {
	case 4:
		proto = header.IPv4ProtocolNumber
	case 6:
		proto = header.IPv6ProtocolNumber
	default:
		return
	}
	pb := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(buffer.NewViewWithData(ip))})
	d.DeliverNetworkPacket(proto, pb)
	pb.DecRef()
}

// MTU implements stack.NetworkLinkEndpoint.
func (l *hostLink) MTU() uint32 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.mtu
}

// SetMTU implements stack.NetworkLinkEndpoint.
func (l *hostLink) SetMTU(mtu uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mtu = mtu
}

// Attach implements stack.NetworkLinkEndpoint.
func (l *hostLink) Attach(d stack.NetworkDispatcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dispatcher = d
}

// IsAttached implements stack.NetworkLinkEndpoint.
func (l *hostLink) IsAttached() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.dispatcher != nil
}

// Capabilities implements stack.NetworkLinkEndpoint.
func (l *hostLink) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}

// GSOMaxSize implements stack.GSOEndpoint.
func (l *hostLink) GSOMaxSize() uint32 { return maxIP }

// SupportedGSO implements stack.GSOEndpoint.
func (l *hostLink) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }

// The rest of stack.LinkEndpoint has nothing to do: there is no link layer.

func (l *hostLink) MaxHeaderLength() uint16                 { return 0 }
func (l *hostLink) LinkAddress() tcpip.LinkAddress          { return "" }
func (l *hostLink) SetLinkAddress(tcpip.LinkAddress)        {}
func (l *hostLink) Wait()                                   {}
func (l *hostLink) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (l *hostLink) AddHeader(*stack.PacketBuffer)           {}
func (l *hostLink) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (l *hostLink) Close()                                  {}
func (l *hostLink) SetOnCloseAction(func())                 {}
