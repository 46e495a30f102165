package grpc

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// peerUser is the user of the process at the other end.
func peerUser(c *net.UnixConn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var got error
	if err := raw.Control(func(fd uintptr) { cred, got = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if got != nil {
		return 0, fmt.Errorf("who is there: %w", got)
	}
	return int(cred.Uid), nil
}
