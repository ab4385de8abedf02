// Package secret seals what the relay must be able to show to other servers, such as a route's password, so that the
// replicated state alone tells nobody. The keys are in the nodes' identity files.
package secret

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"
	"golang.org/x/crypto/chacha20poly1305"

	"relay/cluster/datadir"
	"relay/cluster/fault"
)

// Subject is what members ask each other: for the other's keys, with their own.
const Subject = "cluster/seal-keys"

const (
	answerTime = 5 * time.Second // for the others' answers
	oldKeep    = time.Hour       // a former key that nothing uses, behind the newest one
)

// Ports are what a Keeper needs of its node. Sealed lists what is sealed in the replicated state.
type Ports struct {
	Identity *datadir.Identity
	Dir      string // of the identity file
	Servers  func() []raft.Server
	Ask      func(ctx context.Context, node, subject string, body []byte) ([]byte, error)
	Go       func(func())
	Now      func() time.Time // the cluster's
	Sealed   func() ([][]byte, error)
	Log      *zap.Logger
}

// Keeper has the keys of one node, and exchanges them with the other members: handed over at join, asked of others
// where one is missing; a majority has written a key down before it seals anything. It is safe for concurrent use.
type Keeper struct {
	Ports
	writing sync.Mutex // one change of the keys at a time
}

// ErrSealed says that something was sealed with a key that neither this node has nor another one that answers.
var ErrSealed = errors.New("cluster: no node that answers has the key that it was sealed with")

// learn takes keys in and writes them down.
func (k *Keeper) learn(keys []datadir.SealKey) error {
	k.writing.Lock()
	defer k.writing.Unlock()
	before := k.Identity.SealKeys()
	if !k.Identity.MergeSealKeys(keys) {
		return nil
	}
	err := k.Identity.Save(k.Dir)
	if err != nil { // the next one that brings them has them written
		k.Identity.SetSealKeys(before)
	}
	return err
}

type exchanged struct{ Keys []datadir.SealKey }

// Answer takes a member's keys in and tells it all of this node.
func (k *Keeper) Answer(_ context.Context, _ string, body []byte) ([]byte, error) {
	var in exchanged
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, err
	}
	if err := k.learn(in.Keys); err != nil {
		return nil, fmt.Errorf("cluster: write the identity: %w", err)
	}
	return json.Marshal(exchanged{k.Identity.SealKeys()})
}

// exchange gives the other members this node's keys and takes theirs, until enough says so of the number of
// voters that have these keys, or all have answered.
func (k *Keeper) exchange(ctx context.Context, enough func(voters int) bool) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	body, err := json.Marshal(exchanged{k.Identity.SealKeys()})
	if err != nil {
		return false, err
	}
	voters, asked := 0, 0
	servers := k.Servers()
	answers := make(chan bool, len(servers))
	for _, s := range servers {
		votes := s.Suffrage == raft.Voter
		switch node := string(s.ID); {
		case node != k.Identity.Node:
			asked++
			k.Go(func() { answers <- k.ask(ctx, node, body) && votes })
		case votes:
			voters++
		}
	}
	for ; asked > 0 && !enough(voters); asked-- {
		if <-answers {
			voters++
		}
	}
	return enough(voters), nil
}

// ask reports whether a node has answered, and so has what it was told.
func (k *Keeper) ask(ctx context.Context, node string, body []byte) bool {
	b, err := k.Ask(ctx, node, Subject, body)
	var out exchanged
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err == nil {
		err = k.learn(out.Keys)
	}
	if err != nil && ctx.Err() == nil {
		k.Log.Info("cluster: a node does not exchange the keys of sealed secrets", zap.String("node", node), zap.Error(err))
	}
	return err == nil
}

// spread sees to it that a majority of the voters has this node's keys, and that this node has theirs.
func (k *Keeper) spread(ctx context.Context) error {
	all := 0
	for _, s := range k.Servers() {
		if s.Suffrage == raft.Voter {
			all++
		}
	}
	held, err := k.exchange(ctx, func(voters int) bool { return all > 0 && voters > all/2 })
	if err == nil && !held {
		err = fmt.Errorf("%w: no majority of the nodes has the key for secrets", fault.ErrUnavailable)
	}
	return err
}

// Seal encrypts a secret so that every member can read it and nobody can who has the replicated state alone. about
// says what the secret is for; Unseal must be told the same. It wraps fault.ErrUnavailable where no majority answers.
func (k *Keeper) Seal(ctx context.Context, secret []byte, about string) ([]byte, error) {
	if err := k.spread(ctx); err != nil {
		return nil, err
	}
	if len(k.Identity.SealKeys()) == 0 {
		if err := k.NewKey(ctx); err != nil {
			return nil, err
		}
	}
	return k.Identity.SealKeys()[0].Seal(secret, about)
}

// NewKey makes a key that Seal uses from now on; it leaves alone what was sealed before.
func (k *Keeper) NewKey(ctx context.Context) error {
	key := datadir.SealKey{Key: make([]byte, chacha20poly1305.KeySize), Made: k.Now().UnixMilli()}
	_, _ = rand.Read(key.Key)
	if keys := k.Identity.SealKeys(); len(keys) > 0 {
		key.Made = max(key.Made, keys[0].Made+1)
	}
	if err := k.learn([]datadir.SealKey{key}); err != nil {
		return fmt.Errorf("cluster: write the identity: %w", err)
	}
	return k.spread(ctx)
}

// Tidy forgets former keys with which nothing is sealed any more, an hour after the newest one was made: what was
// sealed before and proposed behind it is in the state by then. Most calls find one key, and end.
func (k *Keeper) Tidy() {
	keys := k.Identity.SealKeys()
	if len(keys) < 2 || k.Now().Sub(time.UnixMilli(keys[0].Made)) < oldKeep {
		return
	}
	sealed, err := k.Sealed()
	if err != nil {
		return // the next call looks again
	}
	kept := slices.DeleteFunc(slices.Clone(keys), func(key datadir.SealKey) bool {
		return !bytes.Equal(key.Key, keys[0].Key) && !slices.ContainsFunc(sealed, func(one []byte) bool {
			name, err := datadir.SealedWith(one)
			return err != nil || bytes.Equal(name, key.ID())
		})
	})
	k.writing.Lock()
	defer k.writing.Unlock()
	if now := k.Identity.SealKeys(); len(kept) == len(now) || len(now) != len(keys) {
		return
	}
	k.Identity.SetSealKeys(kept)
	if err := k.Identity.Save(k.Dir); err != nil {
		k.Log.Warn("cluster: the keys of sealed secrets were not written", zap.Error(err))
	}
}

// Unseal decrypts what Seal made. A node that lacks the key asks the other members for it. It wraps ErrSealed where
// none has it.
func (k *Keeper) Unseal(ctx context.Context, sealed []byte, about string) ([]byte, error) {
	name, err := datadir.SealedWith(sealed)
	if err != nil {
		return nil, err
	}
	key, has := k.Identity.SealKey(name)
	if !has {
		_, err := k.exchange(ctx, func(int) bool { key, has = k.Identity.SealKey(name); return has })
		if err != nil {
			return nil, err
		}
	}
	if !has {
		return nil, fmt.Errorf("%w (key %x)", ErrSealed, name)
	}
	return key.Open(sealed, about)
}
