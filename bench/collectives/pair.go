package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// pairName is what the ranks' certificate says.
const pairName = "bench"

// pair is the certificate and key, as PEM, that the ranks of one run share. It signs itself.
type pair struct{ Certificate, Key []byte }

func newPair() (*pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: pairName}, DNSNames: []string{pairName},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate: %w", err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a key: %w", err)
	}
	return &pair{
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}),
	}, nil
}

// configs are how a rank is called and how it calls: TLS 1.3 on both sides, as between workers. Both are nil for no pair.
func (p *pair) configs() (server, client *tls.Config, err error) {
	if p == nil {
		return nil, nil, nil
	}
	own, err := tls.X509KeyPair(p.Certificate, p.Key)
	if err != nil {
		return nil, nil, fmt.Errorf("read the pair: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(p.Certificate) {
		return nil, nil, errors.New("read the pair: no certificate")
	}
	base := tls.Config{Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS13}
	server, client = base.Clone(), base.Clone()
	server.ClientCAs, server.ClientAuth = pool, tls.RequireAndVerifyClientCert
	client.RootCAs, client.ServerName = pool, pairName
	return server, client, nil
}
