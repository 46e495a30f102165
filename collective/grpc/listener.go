package grpc

import (
	"io"
	"net"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/zerofleet/zerofleet/collective/internal/frame"
)

// listener gives connections whose remote address knows the connection, so that a stream's
// handler can break it: gRPC has no way to close one connection of a server.
type listener struct {
	net.Listener
	wrap func(net.Conn) net.Conn
}

type remoteAddr struct {
	net.Addr
	conn net.Conn
}

type addressedConn struct{ net.Conn }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return addressedConn{l.wrap(c)}, nil
}

func (c addressedConn) RemoteAddr() net.Addr { return remoteAddr{c.Conn.RemoteAddr(), c.Conn} }

// sorting takes the lanes out of the connections that come for gRPC.
type sorting struct {
	credentials.TransportCredentials
	ep *Endpoint
}

// ServerHandshake is credentials.TransportCredentials's.
func (s sorting) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if s.ep.tls {
		secured, auth, err := s.TransportCredentials.ServerHandshake(c)
		if t, ok := auth.(credentials.TLSInfo); err != nil || !ok || t.State.NegotiatedProtocol != laneProtocol {
			return secured, auth, err
		}
		return s.dispatch(secured, secured)
	}
	_ = c.SetReadDeadline(time.Now().Add(helloTimeout))
	first := make([]byte, 1)
	if _, err := c.Read(first); err != nil {
		return nil, nil, err
	}
	_ = c.SetReadDeadline(time.Time{})
	whole := &pushedBack{c, first}
	if plain, ok := c.(addressedConn); ok && frame.Begins(first[0]) {
		return s.dispatch(plain.Conn, whole)
	}
	return s.TransportCredentials.ServerHandshake(whole)
}

func (s sorting) dispatch(c net.Conn, from io.Reader) (net.Conn, credentials.AuthInfo, error) {
	if err := s.ep.admitLane(c, from, false, helloTimeout); err != nil {
		s.ep.log.Warn("a lane was refused", "addr", c.RemoteAddr().String(), "err", err)
		_ = c.Close()
		return nil, nil, err
	}
	return nil, nil, credentials.ErrConnDispatched
}

// Clone is credentials.TransportCredentials's.
func (s sorting) Clone() credentials.TransportCredentials {
	return sorting{s.TransportCredentials.Clone(), s.ep}
}

// pushedBack is a connection of which the first bytes have been read.
type pushedBack struct {
	net.Conn
	first []byte
}

func (c *pushedBack) Read(b []byte) (int, error) {
	if len(c.first) == 0 {
		return c.Conn.Read(b)
	}
	n := copy(b, c.first)
	c.first = c.first[n:]
	return n, nil
}
