package place

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// WireDelay is what a wire adds to every frame, in each direction.
const WireDelay = time.Millisecond

// frameBytes is the longest frame: a veth carries what TCP has not cut yet, with a virtio header that says so.
const frameBytes = 128 << 10

// wire carries Ethernet frames between two devices, each of them WireDelay late, as netem would where a kernel has it.
type wire struct {
	sockets [2]int
	stop    chan struct{}
	wg      sync.WaitGroup
}

// openWire joins two devices of this namespace.
func openWire(devices [2]string) (w *wire, err error) {
	w = &wire{stop: make(chan struct{})}
	for i, name := range devices {
		if w.sockets[i], err = rawSocket(name); err != nil {
			if i == 1 {
				_ = unix.Close(w.sockets[0])
			}
			return nil, fmt.Errorf("join %s: %w", name, err)
		}
	}
	for i := range w.sockets {
		late := make(chan delayedFrame, 4096)
		w.wg.Go(func() { w.receive(w.sockets[i], late) })
		w.wg.Go(func() { w.send(w.sockets[1-i], late) })
	}
	return w, nil
}

// rawSocket gets all frames that come in at a device, and sends out what is written to it. It wakes every 100 ms.
func rawSocket(device string) (fd int, err error) {
	const anyProtocol = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network order
	dev, err := net.InterfaceByName(device)
	if err != nil {
		return 0, err
	}
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("open a packet socket: %w", err)
	}
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 32<<20),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 32<<20),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: anyProtocol, Ifindex: dev.Index}),
	); err != nil {
		_ = unix.Close(fd)
		return 0, fmt.Errorf("set up a packet socket: %w", err)
	}
	return fd, nil
}

// delayedFrame is a frame that leaves at a time.
type delayedFrame struct {
	bytes []byte
	at    time.Time
}

func (w *wire) receive(from int, late chan<- delayedFrame) {
	defer close(late)
	buf := make([]byte, frameBytes)
	for {
		select {
		case <-w.stop:
			return
		default:
		}
		n, err := unix.Read(from, buf)
		switch {
		case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENETDOWN):
			continue
		case err != nil:
			return
		}
		select {
		case late <- delayedFrame{append([]byte(nil), buf[:n]...), time.Now().Add(WireDelay)}:
		case <-w.stop:
			return
		}
	}
}

func (w *wire) send(to int, late <-chan delayedFrame) {
	t := time.NewTimer(0)
	defer t.Stop()
	for f := range late {
		t.Reset(time.Until(f.at))
		select {
		case <-t.C:
		case <-w.stop:
			continue // until receive has ended
		}
		_, _ = unix.Write(to, f.bytes) // what is not taken is lost, as on a wire
	}
}

func (w *wire) close() error {
	close(w.stop)
	w.wg.Wait()
	return errors.Join(unix.Close(w.sockets[0]), unix.Close(w.sockets[1]))
}
