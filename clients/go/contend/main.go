// SPDX-License-Identifier: Apache-2.0

// Command contend makes callers of the original Go SDK compete for locks and leaderships, and give up in bad moments.
// The arguments, the modes and the output are described in clients/README.md, section "Contention".
package main

import (
	"context"
	"fmt"
	"io"
	"math/rand"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atomix/atomix/api/errors"
	countermapv1 "github.com/atomix/atomix/api/runtime/countermap/v1"
	electionv1 "github.com/atomix/atomix/api/runtime/election/v1"
	mapv1 "github.com/atomix/atomix/api/runtime/map/v1"
	runtimev1 "github.com/atomix/atomix/api/runtime/v1"
	"github.com/atomix/go-sdk/pkg/client"
	"github.com/atomix/go-sdk/pkg/primitive/lock"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// target is what callers compete for, over one connection.
type target interface {
	// take waits for at most timeout, as the server counts it.
	take(ctx context.Context, timeout time.Duration) error
	// release gives back what take got.
	release(ctx context.Context) error
	// close ends the connection.
	close()
}

type settings struct {
	addrs  []string
	kind   string
	mode   string
	prefix string
	names  int
}

// warmUp is for programs that compile as they go: their first calls take longer than any margin of a deadline.
const warmUp = 2 * time.Second

type tally struct{ granted, refused, cut, failed atomic.Int64 }

func main() {
	if len(os.Args) != 9 {
		fmt.Fprintln(os.Stderr, "usage: contend ADDRS KIND MODE PREFIX NAMES CALLERS SECONDS SEED")
		os.Exit(64)
	}
	s := settings{addrs: strings.Split(os.Args[1], ","), kind: os.Args[2], mode: os.Args[3], prefix: os.Args[4], names: number(5)}
	callers, seed := number(6), int64(number(8))
	end := time.Now().Add(time.Duration(number(7)) * time.Second)
	var counted tally
	var group sync.WaitGroup
	var connections sync.Map
	for i := 0; i < callers; i++ {
		group.Add(1)
		go func(i int) {
			defer group.Done()
			connections.Store(i, s.run(i, rand.New(rand.NewSource(seed*1000+int64(i))), end, &counted))
		}(i)
	}
	group.Wait()
	fmt.Printf("granted=%d refused=%d cut=%d failed=%d\n", counted.granted.Load(), counted.refused.Load(), counted.cut.Load(), counted.failed.Load())
	// The connections stay open while the test checks that nothing is held.
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func number(at int) int {
	n, err := strconv.Atoi(os.Args[at])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(64)
	}
	return n
}

func (s settings) run(i int, random *rand.Rand, end time.Time, counted *tally) target {
	between := func(min, max int) time.Duration {
		return time.Duration(min*1000+random.Intn((max-min)*1000)) * time.Microsecond
	}
	t, begun := s.open(i, end), time.Now()
	for t != nil && time.Now().Before(end) {
		deadline := between(100, 400)
		if time.Since(begun) < warmUp {
			deadline += warmUp
		}
		timeout := deadline
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		switch s.mode {
		case "shorter":
			timeout *= 4
		case "cancel":
			cancel()
			timeout = 10 * time.Second
			ctx, cancel = context.WithCancel(context.Background())
			time.AfterFunc(deadline, cancel)
		}
		err := t.take(ctx, timeout)
		cancel()
		if s.mode == "cut" && random.Intn(30) == 0 {
			counted.cut.Add(1)
			t.close()
			t = s.open(i, end)
			continue
		}
		switch {
		case err == nil:
			counted.granted.Add(1)
			time.Sleep(between(1, 8))
			if !released(t, end) {
				counted.failed.Add(1)
				t.close()
				t = s.open(i, end)
			}
		case s.mode == "cancel" && errors.IsCanceled(err):
			// The lock may have been granted before: applications that cancel have to give it back.
			counted.refused.Add(1)
			if !released(t, end) {
				t.close()
				t = s.open(i, end)
			}
		case errors.IsConflict(err) || errors.IsTimeout(err) || errors.IsCanceled(err):
			counted.refused.Add(1)
		default:
			counted.failed.Add(1)
			time.Sleep(between(5, 50))
		}
	}
	return t
}

// released gives back what is held, however often that takes: an answer may be lost. False if the connection has to go instead.
func released(t target, end time.Time) bool {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		err := t.release(ctx)
		cancel()
		if err == nil || errors.IsConflict(err) {
			return true
		}
		if time.Now().After(end) {
			return false
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// nameOf lets every fifth caller compete for name 0, and spreads the others over the rest.
func (s settings) nameOf(i int) int {
	if i%5 == 0 {
		return 0
	}
	return 1 + i%(s.names-1)
}

// open connects to the runtime of the caller. Nil when that failed until the end.
func (s settings) open(i int, end time.Time) target {
	name := fmt.Sprintf("%s-%d", s.prefix, s.nameOf(i))
	for {
		t, err := s.openOnce(s.addrs[i%len(s.addrs)], i, name)
		if err == nil {
			return t
		}
		if time.Now().After(end) {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (s settings) openOnce(addr string, i int, name string) (target, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if s.kind == "lock" {
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		number, err := strconv.Atoi(port)
		if err != nil {
			return nil, err
		}
		c := client.NewClient(client.WithHost(host), client.WithPort(number))
		l, err := client.Lock(c)(name).Get(ctx)
		if err != nil {
			_ = c.Close()
			return nil, err
		}
		return &sdkLock{c, l}, nil
	}
	conn, err := grpc.Dial(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	stubs := &stubs{conn: conn, candidate: fmt.Sprintf("%s-go-%d", s.prefix, i), kind: s.kind, id: runtimev1.PrimitiveID{Name: name}}
	if s.kind != "election" {
		stubs.id, stubs.keys = runtimev1.PrimitiveID{Name: s.prefix}, []string{name}
	}
	if err := stubs.create(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return stubs, nil
}

// sdkLock is a lock of the SDK. The SDK sends the deadline of the context as the timeout too.
type sdkLock struct {
	client *client.Client
	lock   lock.Lock
}

func (l *sdkLock) take(ctx context.Context, timeout time.Duration) error {
	_, err := l.lock.Lock(ctx, lock.WithTimeout(timeout))
	return err
}

func (l *sdkLock) release(ctx context.Context) error { return l.lock.Unlock(ctx) }

func (l *sdkLock) close() { _ = l.client.Close() }

// stubs makes the calls that the SDK lacks.
type stubs struct {
	conn      *grpc.ClientConn
	kind      string
	id        runtimev1.PrimitiveID
	keys      []string
	candidate string
}

func (s *stubs) create(ctx context.Context) (err error) {
	switch s.kind {
	case "map":
		_, err = mapv1.NewMapsClient(s.conn).Create(ctx, &mapv1.CreateRequest{ID: s.id})
	case "countermap":
		_, err = countermapv1.NewCounterMapsClient(s.conn).Create(ctx, &countermapv1.CreateRequest{ID: s.id})
	default:
		_, err = electionv1.NewLeaderElectionsClient(s.conn).Create(ctx, &electionv1.CreateRequest{ID: s.id})
	}
	return err
}

func (s *stubs) take(ctx context.Context, timeout time.Duration) (err error) {
	switch s.kind {
	case "map":
		_, err = mapv1.NewMapClient(s.conn).Lock(ctx, &mapv1.LockRequest{ID: s.id, Keys: s.keys, Timeout: &timeout})
	case "countermap":
		_, err = countermapv1.NewCounterMapClient(s.conn).Lock(ctx, &countermapv1.LockRequest{ID: s.id, Keys: s.keys, Timeout: &timeout})
	default:
		_, err = electionv1.NewLeaderElectionClient(s.conn).Enter(ctx, &electionv1.EnterRequest{ID: s.id, Candidate: s.candidate})
	}
	return typed(err)
}

func (s *stubs) release(ctx context.Context) (err error) {
	switch s.kind {
	case "map":
		_, err = mapv1.NewMapClient(s.conn).Unlock(ctx, &mapv1.UnlockRequest{ID: s.id, Keys: s.keys})
	case "countermap":
		_, err = countermapv1.NewCounterMapClient(s.conn).Unlock(ctx, &countermapv1.UnlockRequest{ID: s.id, Keys: s.keys})
	default:
		_, err = electionv1.NewLeaderElectionClient(s.conn).Withdraw(ctx, &electionv1.WithdrawRequest{ID: s.id, Candidate: s.candidate})
	}
	return typed(err)
}

func (s *stubs) close() { _ = s.conn.Close() }

// typed turns a gRPC error into one of the SDK.
func typed(err error) error {
	if err == nil {
		return nil
	}
	switch status.Code(err) {
	case codes.Aborted:
		return errors.NewConflict(err.Error())
	case codes.DeadlineExceeded:
		return errors.NewTimeout(err.Error())
	case codes.Canceled:
		return errors.NewCanceled(err.Error())
	default:
		return err
	}
}
