package membership

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
)

// Role is who a certificate of a job speaks for. Addresses change and certificates do not name them: a certificate holds
// its role as its only DNS name, and each side of a connection checks the other's role.
type Role string

// The roles of a job.
const (
	RoleCoordinator Role = "coordinator.zerofleet"
	RoleWorker      Role = "worker.zerofleet"
)

// Credentials are one process's key pair and the job's authority. Everything it accepts or dials goes through them.
type Credentials struct {
	authority *x509.CertPool
	pair      tls.Certificate
}

// LoadCredentials reads a key pair from PEM files.
func LoadCredentials(authority []byte, certificate, key string) (*Credentials, error) {
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return nil, fmt.Errorf("load key pair %s, %s: %w", certificate, key, err)
	}
	return NewCredentials(authority, pair)
}

// NewCredentials makes credentials of an authority's PEM and a key pair that it signed.
func NewCredentials(authority []byte, pair tls.Certificate) (*Credentials, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authority) {
		return nil, errors.New("load authority: no PEM certificate in it")
	}
	return &Credentials{authority: pool, pair: pair}, nil
}

// Client is the TLS configuration that dials a process of the given role, and nothing else.
func (c *Credentials) Client(peer Role) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		RootCAs:      c.authority,
		Certificates: []tls.Certificate{c.pair},
		ServerName:   string(peer),
	}
}

// Server is the TLS configuration that accepts processes of the given roles, and nothing else.
func (c *Credentials) Server(peers ...Role) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		ClientCAs:    c.authority,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		Certificates: []tls.Certificate{c.pair},
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return errors.New("verify peer: no certificate")
			}
			for _, r := range peers {
				if s.PeerCertificates[0].VerifyHostname(string(r)) == nil {
					return nil
				}
			}
			return fmt.Errorf("verify peer: certificate of %q is for none of %q", s.PeerCertificates[0].DNSNames, peers)
		},
	}
}
