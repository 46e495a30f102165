package grpc

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// socketBytes is what the kernel has counted on a TCP connection, whatever lies over it: TLS's records, HTTP/2's frames. Of other
// connections it is 0. What was sent again is counted once.
func socketBytes(conn net.Conn) (sent, received uint64) {
	for {
		over, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		conn = over.NetConn()
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return 0, 0
	}
	var raw syscall.RawConn
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0, 0
	}
	_ = raw.Control(func(fd uintptr) { // of a connection that is closed there is nothing to tell
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO); err == nil {
			sent, received = info.Bytes_sent-info.Bytes_retrans, info.Bytes_received
		}
	})
	return sent, received
}
