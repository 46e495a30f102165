package membership

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// InvitationVersion is the token file that this package writes and reads.
const InvitationVersion = 1

// greetTimeout bounds one look at whether a coordinator is there.
const greetTimeout = 5 * time.Second

// Invitation is a token file: all that a worker on another machine needs to speak to a job's coordinator. It is as secret
// as a password. JSON, mode 0600.
type Invitation struct {
	Version int    `json:"version"`
	Job     string `json:"job"`
	Addr    string `json:"address"` // host:port of the coordinator's gRPC, as other machines reach it
	// Authority, Certificate and Key are PEM: what the coordinator is held to, and the workers' key pair.
	Authority   string `json:"authority"`
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
	Token       string `json:"token"`
}

// ReadInvitation reads a token file.
func ReadInvitation(path string) (Invitation, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Invitation{}, fmt.Errorf("read token file: %w", err)
	}
	if info.Size() > maxControlBytes {
		return Invitation{}, fmt.Errorf("read token file %s: %d bytes, want at most %d", path, info.Size(), maxControlBytes)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return Invitation{}, fmt.Errorf("read token file: %w", err)
	}
	var i Invitation
	if err := json.Unmarshal(b, &i); err != nil {
		return Invitation{}, fmt.Errorf("decode token file %s: %w: want the one that launch --listen has written", path, err)
	}
	if i.Version != InvitationVersion {
		return Invitation{}, fmt.Errorf("decode token file %s: version %d, want %d", path, i.Version, InvitationVersion)
	}
	return i, nil
}

// Marshal is what ReadInvitation reads.
func (i Invitation) Marshal() ([]byte, error) {
	i.Version = InvitationVersion
	b, err := json.MarshalIndent(i, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode token file: %w", err)
	}
	return append(b, '\n'), nil
}

// Endpoint is the coordinator at addr, or where the file says if addr is "".
func (i Invitation) Endpoint(addr string) (Endpoint, error) {
	if addr == "" {
		addr = i.Addr
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return Endpoint{}, fmt.Errorf("coordinator %q: want HOST:PORT", addr)
	}
	pair, err := tls.X509KeyPair([]byte(i.Certificate), []byte(i.Key))
	if err != nil {
		return Endpoint{}, fmt.Errorf("token file: key pair: %w", err)
	}
	creds, err := NewCredentials([]byte(i.Authority), pair)
	if err != nil {
		return Endpoint{}, fmt.Errorf("token file: %w", err)
	}
	return Endpoint{Addr: addr, Token: i.Token, Credentials: creds}, nil
}

// Fixed is a coordinator that is always looked for in one place.
func Fixed(e Endpoint) Locator { return func() (Endpoint, error) { return e, nil } }

// ErrAnother says that somebody else than the job's coordinator is at its address: waiting will not help.
var ErrAnother = errors.New("not the coordinator that the token file is of")

// Greet looks once whether the job's coordinator is at e. ErrAnother when somebody else is; any other error may pass.
func (e Endpoint) Greet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, greetTimeout)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", e.Addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	err = tls.Client(conn, e.Credentials.Client(RoleCoordinator)).HandshakeContext(ctx)
	var certificate *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	if errors.As(err, &certificate) || errors.As(err, &record) {
		return fmt.Errorf("%s is %w: %w", e.Addr, ErrAnother, err)
	}
	return err
}
