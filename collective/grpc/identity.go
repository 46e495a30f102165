package grpc

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// errIdentity means that a peer's certificate is not the one of the worker it should be.
var errIdentity = errors.New("wrong identity")

// checkIdentity checks that the certificate names the worker, as its common name or as
// one of its DNS names.
func checkIdentity(certs []*x509.Certificate, name string) error {
	if len(certs) == 0 {
		return fmt.Errorf("%w: no certificate, want one of worker %q", errIdentity, name)
	}
	c := certs[0]
	if c.Subject.CommonName == name || slices.Contains(c.DNSNames, name) {
		return nil
	}
	return fmt.Errorf("%w: a certificate of %q, want one of worker %q", errIdentity, c.Subject.CommonName, name)
}

// serverTLS is how this rank is called: every caller shows a certificate of the job's
// authority.
func serverTLS(base *tls.Config) (*tls.Config, error) {
	if base.ClientCAs == nil {
		return nil, errors.New("tls: ClientCAs is not set: callers could not be told apart")
	}
	c := base.Clone()
	c.ClientAuth = tls.RequireAndVerifyClientCert
	c.MinVersion = max(c.MinVersion, tls.VersionTLS13)
	c.NextProtos = []string{"h2", laneProtocol}
	return c, nil
}

// clientTLS is how a worker is called: its certificate must be of the job's authority, and
// name its id. Its address proves nothing, so the certificate need not name it.
func clientTLS(base *tls.Config, id string) (*tls.Config, error) {
	if base.RootCAs == nil {
		return nil, errors.New("tls: RootCAs is not set: workers could not be told apart")
	}
	c := base.Clone()
	c.MinVersion = max(c.MinVersion, tls.VersionTLS13)
	c.InsecureSkipVerify = true // VerifyConnection verifies instead, by id
	roots := c.RootCAs
	c.VerifyConnection = func(s tls.ConnectionState) error {
		if err := checkIdentity(s.PeerCertificates, id); err != nil {
			return err
		}
		between := x509.NewCertPool()
		for _, cert := range s.PeerCertificates[1:] {
			between.AddCert(cert)
		}
		_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{
			Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		})
		if err != nil {
			return fmt.Errorf("verify certificate of worker %q: %w", id, err)
		}
		return nil
	}
	return c, nil
}

// identityGuard remembers that a certificate named another worker, which gRPC would report
// as one more failed connection.
type identityGuard struct {
	mu   sync.Mutex
	seen error
}

func (g *identityGuard) wrap(verify func(tls.ConnectionState) error) func(tls.ConnectionState) error {
	return func(s tls.ConnectionState) error {
		err := verify(s)
		if errors.Is(err, errIdentity) {
			g.mu.Lock()
			g.seen = err
			g.mu.Unlock()
		}
		return err
	}
}

func (g *identityGuard) err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.seen
}
