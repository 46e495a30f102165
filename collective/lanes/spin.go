package lanes

import (
	"io"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// spinFor is how long a reader looks again and again before it sleeps: about what it takes to wake a core up.
const spinFor = 50 * time.Microsecond

// spinning reads from a connection. While urgent says so it does not sleep at once when nothing is there: a message that is
// answered at once finds its reader awake.
type spinning struct {
	net.Conn
	raw    syscall.RawConn
	urgent func() bool
}

// newSpinning is conn itself where it has no socket.
func newSpinning(conn net.Conn, urgent func() bool) io.Reader {
	s, ok := conn.(syscall.Conn)
	if !ok {
		return conn
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return conn
	}
	return &spinning{conn, raw, urgent}
}

// Read is io.Reader's.
func (s *spinning) Read(b []byte) (int, error) {
	if s.urgent() {
		_ = s.raw.Control(s.look) // what is wrong with the socket is for Read to find
	}
	return s.Conn.Read(b)
}

// look returns when something can be read, nothing is urgent any more, or it has looked for long enough.
func (s *spinning) look(fd uintptr) {
	var one [1]byte
	for until := time.Now().Add(spinFor); s.urgent() && time.Now().Before(until); {
		if _, _, err := unix.Recvfrom(int(fd), one[:], unix.MSG_PEEK|unix.MSG_DONTWAIT); err != unix.EAGAIN && err != unix.EINTR {
			return
		}
	}
}
