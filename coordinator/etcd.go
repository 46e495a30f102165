package coordinator

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"
)

// etcdStartTimeout bounds how long the embedded etcd may take to replay its log and elect itself.
const etcdStartTimeout = 30 * time.Second

// A run's log of membership is a few hundred kilobytes; etcd takes each segment from the disk whole, 64 MB by default.
// It has no option for it, and one process holds one etcd.
func init() { wal.SegmentSizeBytes = 4 << 20 }

// reservedBytes is what reserve takes: a run with 18 checkpoints was seen to use 256 KiB, and old revisions are compacted.
const reservedBytes = 4 << 20

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
	log, err := etcdLog(logPath)
	if err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(log)
	cfg.ListenPeerUrls, cfg.ListenClientUrls = nil, nil
	cfg.AdvertisePeerUrls, cfg.AdvertiseClientUrls = []url.URL{*nowhere}, []url.URL{*nowhere}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.TickMs, cfg.ElectionMs = 20, 200
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = "revision", "1000"
	cfg.MaxRequestBytes = 64 << 20 // a manifest, see membership.MaxMessageBytes
	cfg.MaxTxnOps = 1 << 14        // some for each worker, where all are written at once
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, fmt.Errorf("start etcd in %s (its log: %s): %w", dir, logPath, err)
	}
	ready := time.NewTimer(etcdStartTimeout)
	defer ready.Stop()
	select {
	case <-server.Server.ReadyNotify():
		if err = reserve(filepath.Join(dir, "member", "snap", "db")); err == nil {
			return &embedded{server: server, client: v3client.New(server.Server)}, nil
		}
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

// reserve takes the disk's room for what etcd will write into its file, of which a run uses a few hundred kilobytes and
// which is sparse otherwise. A disk that fills up then ends a run with an error that can still be written down; etcd
// itself ends its process when it gets no room.
func reserve(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("reserve room: %w", err)
	}
	defer f.Close()
	err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, reservedBytes)
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) { // some file systems cannot
		return fmt.Errorf("reserve room in %s: %w", path, err)
	}
	return nil
}

// etcdLog writes etcd's warnings to a file. Etcd ends the process after a fatal one: what that says also goes to standard
// error, since nobody is left to tell it, and the disk may be what is in trouble.
func etcdLog(path string) (*zap.Logger, error) {
	c := zap.NewProductionConfig()
	c.Level, c.Sampling = zap.NewAtomicLevelAt(zap.WarnLevel), nil
	c.EncoderConfig.EncodeTime = zapcore.ISO8601TimeEncoder
	c.OutputPaths, c.ErrorOutputPaths = []string{path}, []string{path}
	return c.Build(zap.WithFatalHook(fatal{path}))
}

// fatal is what a fatal entry of etcd's log at path does.
type fatal struct{ path string }

func (f fatal) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	said := zapcore.NewMapObjectEncoder()
	for _, field := range fields {
		field.AddTo(said)
	}
	fmt.Fprintf(os.Stderr, "coordinator: etcd cannot go on: %s: %v (its log: %s); workers go on without a coordinator, for workers.orphan_seconds\n",
		e.Message, said.Fields["error"], shown(f.path))
	os.Exit(ExitFailed)
}

func (e *embedded) close() error {
	err := e.client.Close()
	e.server.Close()
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close etcd client: %w", err)
	}
	return nil
}
