package grpc

import "net"

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
