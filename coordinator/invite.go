package coordinator

import (
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/zerofleet/zerofleet/membership"
	"github.com/zerofleet/zerofleet/membership/gossip"
	"github.com/zerofleet/zerofleet/membership/store"
)

// reach is the host that workers of other machines reach this one at, when the coordinator listens at addr: the address
// itself, or of a wildcard the first one of this machine that is not its own alone.
func reach(addr net.Addr) (string, error) {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return "", fmt.Errorf("listening at %s: want a TCP address", addr)
	}
	if !tcp.IP.IsUnspecified() {
		return tcp.IP.String(), nil
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return "", fmt.Errorf("find this machine's addresses: %w", err)
	}
	for _, a := range own {
		n, ok := a.(*net.IPNet)
		if ok && n.IP.IsGlobalUnicast() && (n.IP.To4() != nil || tcp.IP.To4() == nil) {
			return n.IP.String(), nil
		}
	}
	return "", bad("--listen: this machine has no address that others could reach: give one in place of %s", tcp.IP)
}

// invite leaves the token file in the run folder, and says what to run on other machines.
func (r *run) invite(a store.Authority, addr net.Addr, rec *record) error {
	host, err := reach(addr)
	if err != nil {
		return err
	}
	at := net.JoinHostPort(host, strconv.Itoa(addr.(*net.TCPAddr).Port))
	certificate, err := os.ReadFile(r.folder.path("tls", "worker.pem"))
	if err != nil {
		return fmt.Errorf("read the workers' certificate: %w", err)
	}
	key, err := os.ReadFile(r.folder.path("tls", "worker.key"))
	if err != nil {
		return fmt.Errorf("read the workers' key: %w", err)
	}
	b, err := membership.Invitation{Job: r.view.Run.Job, Addr: at, Authority: string(a.Certificate), Certificate: string(certificate),
		Key: string(key), Token: a.Token}.Marshal()
	if err != nil {
		return err
	}
	path := r.folder.path("join.token")
	if err := replaceFile(path, b, 0o600); err != nil {
		return err
	}
	line := fmt.Sprintf("worker join --coordinator %s --token-file join.token --advertise ADDRESS", at)
	if tcp := addr.(*net.TCPAddr); tcp.IP.IsLoopback() {
		line = fmt.Sprintf("worker join --coordinator %s --token-file %s", at, quote(shown(path)))
	}
	rec.event("joinable", "more workers join with: "+line,
		fmt.Sprintf("copy %s there first, and keep it secret; ADDRESS is where the other workers reach that machine", shown(path)), map[string]string{"join": line})
	return nil
}

// gossipKey is what the failure detectors of one launch encrypt with. Whoever leads the job next derives the same.
func gossipKey(a store.Authority, run store.Run) ([]byte, error) {
	key, err := hkdf.Key(sha256.New, a.Key, nil, "zerofleet gossip, launch of "+run.Started.UTC().Format(time.RFC3339Nano), gossip.KeyBytes)
	if err != nil {
		return nil, fmt.Errorf("derive the key of gossip: %w", err)
	}
	return key, nil
}
