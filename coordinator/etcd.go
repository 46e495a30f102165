package coordinator

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/storage/wal"
)

// etcdStartTimeout bounds how long the embedded etcd may take to replay its log and elect itself.
const etcdStartTimeout = 30 * time.Second

// A run's log of membership is a few hundred kilobytes; etcd takes each segment from the disk whole, 64 MB by default.
// It has no option for it, and one process holds one etcd.
func init() { wal.SegmentSizeBytes = 4 << 20 }

// embedded is an etcd inside this process. It listens nowhere: its client calls it directly, so that nobody else
// can reach it, no port is taken, and no connection needs to be secured.
type embedded struct {
	server *embed.Etcd
	client *clientv3.Client
}

// startEtcd opens the etcd whose data is dir, which the caller must have locked, and waits until it serves.
//
// It is one member, so an election has no other voter to wait for: its ticks are short only to start at once. Measured
// on 2 shared cores, an empty folder serves after 55 ms and one of a finished run after 90 ms; with etcd's own ticks
// of 100 ms it is 1.1 s. Every write is fsynced as usual (0.3 ms here): what a coordinator has answered holds.
func startEtcd(ctx context.Context, dir, logPath string) (*embedded, error) {
	nowhere, err := url.Parse("unix://embedded:0")
	if err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	cfg := embed.NewConfig()
	cfg.Dir = dir
	cfg.Logger, cfg.LogLevel, cfg.LogOutputs = "zap", "warn", []string{logPath}
	cfg.ListenPeerUrls, cfg.ListenClientUrls = nil, nil
	cfg.AdvertisePeerUrls, cfg.AdvertiseClientUrls = []url.URL{*nowhere}, []url.URL{*nowhere}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.TickMs, cfg.ElectionMs = 20, 200
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = "revision", "1000"
	cfg.MaxRequestBytes = 64 << 20 // a manifest, see membership.MaxMessageBytes
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, fmt.Errorf("start etcd in %s (its log: %s): %w", dir, logPath, err)
	}
	ready := time.NewTimer(etcdStartTimeout)
	defer ready.Stop()
	select {
	case <-server.Server.ReadyNotify():
		return &embedded{server: server, client: v3client.New(server.Server)}, nil
	case err = <-server.Err():
	case <-server.Server.StopNotify():
		err = errors.New("it stopped")
	case <-ready.C:
		err = fmt.Errorf("it did not serve within %s", etcdStartTimeout)
	case <-ctx.Done():
		err = ctx.Err()
	}
	server.Close()
	return nil, fmt.Errorf("start etcd in %s (its log: %s): %w", dir, logPath, err)
}

func (e *embedded) close() error {
	err := e.client.Close()
	e.server.Close()
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close etcd client: %w", err)
	}
	return nil
}
