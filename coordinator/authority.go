package coordinator

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/membership/store"
)

const (
	// authorityLife is how long a job's certificates hold: longer than any job.
	authorityLife = 2 * 365 * 24 * time.Hour
	// clockSkew is how far the clocks of a job's hosts may disagree.
	clockSkew = time.Hour
)

// newAuthority makes a job's certificate authority and token. It is made once per run folder and kept in etcd, so that
// the workers' certificates outlive a coordinator.
func newAuthority(job string, now time.Time) (store.Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return store.Authority{}, fmt.Errorf("make authority: %w", err)
	}
	serial, err := serialNumber()
	if err != nil {
		return store.Authority{}, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "zerofleet job " + job},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(authorityLife),
		IsCA:                  true,
		MaxPathLenZero:        true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return store.Authority{}, fmt.Errorf("sign authority: %w", err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return store.Authority{}, err
	}
	token := make([]byte, 32)
	if _, err := rand.Read(token); err != nil {
		return store.Authority{}, fmt.Errorf("make token: %w", err)
	}
	return store.Authority{
		Certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:         keyPEM,
		Token:       hex.EncodeToString(token),
	}, nil
}

// issue makes a key pair for a role, signed by a, as PEM.
func issue(a store.Authority, role membership.Role, now time.Time) (certificate, key []byte, err error) {
	signer, err := tls.X509KeyPair(a.Certificate, a.Key)
	if err != nil {
		return nil, nil, fmt.Errorf("read authority: %w", err)
	}
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key of %s: %w", role, err)
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: string(role)},
		DNSNames:     []string{string(role)},
		NotBefore:    now.Add(-clockSkew),
		NotAfter:     signer.Leaf.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if template.NotBefore.Before(signer.Leaf.NotBefore) {
		template.NotBefore = signer.Leaf.NotBefore
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer.Leaf, own.Public(), signer.PrivateKey)
	if err != nil {
		return nil, nil, fmt.Errorf("sign certificate of %s: %w", role, err)
	}
	key, err = encodeKey(own)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key, nil
}

// ownCredentials are a fresh key pair for a role, in memory.
func ownCredentials(a store.Authority, role membership.Role, now time.Time) (*membership.Credentials, error) {
	certificate, key, err := issue(a, role, now)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, fmt.Errorf("pair key and certificate of %s: %w", role, err)
	}
	return membership.NewCredentials(a.Certificate, pair)
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func serialNumber() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, errors.Join(errors.New("make serial number"), err)
	}
	return n, nil
}
