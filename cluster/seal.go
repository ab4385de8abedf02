package cluster

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"
	"golang.org/x/crypto/chacha20poly1305"

	"relay/cluster/datadir"
)

// Passwords that the relay shows to other servers are sealed in the replicated state. The keys are in identity files,
// handed over at join and asked of other members; a majority has written one down before it seals anything.

const (
	askSealKeys = "cluster/seal-keys"
	sealTime    = 5 * time.Second // for the others' answers
	sealFormat  = 1               // first octet of what is sealed; the key's id, the nonce and the ciphertext follow
)

// ErrSealed says that something was sealed with a key that neither this node has nor another one that answers.
var ErrSealed = errors.New("cluster: no node that answers has the key that it was sealed with")

// learnSealKeys takes keys in and writes them down.
func (c *Cluster) learnSealKeys(keys []datadir.SealKey) error {
	c.sealing.Lock()
	defer c.sealing.Unlock()
	before := c.id.SealKeys()
	if !c.id.MergeSealKeys(keys) {
		return nil
	}
	err := c.id.Save(c.o.Dir)
	if err != nil { // the next one that brings them has them written
		c.id.SetSealKeys(before)
	}
	return err
}

type sealExchange struct{ Keys []datadir.SealKey }

// answerSealKeys takes a member's keys in and tells it all of this node.
func (c *Cluster) answerSealKeys(_ context.Context, _ string, body []byte) ([]byte, error) {
	var in sealExchange
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, err
	}
	if err := c.learnSealKeys(in.Keys); err != nil {
		return nil, fmt.Errorf("cluster: write the identity: %w", err)
	}
	return json.Marshal(sealExchange{c.id.SealKeys()})
}

// exchangeSealKeys gives the other members this node's keys and takes theirs, until enough says so of the number of
// voters that have these keys, or all have answered.
func (c *Cluster) exchangeSealKeys(ctx context.Context, enough func(voters int) bool) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, sealTime)
	defer cancel()
	body, err := json.Marshal(sealExchange{c.id.SealKeys()})
	if err != nil {
		return false, err
	}
	voters, asked := 0, 0
	servers := c.book.Servers()
	answers := make(chan bool, len(servers))
	for _, s := range servers {
		votes := s.Suffrage == raft.Voter
		switch node := string(s.ID); {
		case node != c.id.Node:
			asked++
			c.goRun(func() { answers <- c.askSealKeys(ctx, node, body) && votes })
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

// askSealKeys reports whether a node has answered, and so has what it was told.
func (c *Cluster) askSealKeys(ctx context.Context, node string, body []byte) bool {
	b, err := c.Ask(ctx, node, askSealKeys, body)
	var out sealExchange
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err == nil {
		err = c.learnSealKeys(out.Keys)
	}
	if err != nil && ctx.Err() == nil {
		c.log.Info("cluster: a node does not exchange the keys of sealed secrets", zap.String("node", node), zap.Error(err))
	}
	return err == nil
}

// spreadSealKeys sees to it that a majority of the voters has this node's keys, and that this node has theirs.
func (c *Cluster) spreadSealKeys(ctx context.Context) error {
	all := 0
	for _, s := range c.book.Servers() {
		if s.Suffrage == raft.Voter {
			all++
		}
	}
	held, err := c.exchangeSealKeys(ctx, func(voters int) bool { return all > 0 && voters > all/2 })
	if err == nil && !held {
		err = fmt.Errorf("%w: no majority of the nodes has the key for secrets", ErrUnavailable)
	}
	return err
}

// Seal encrypts a secret so that every member can read it and nobody can who has the replicated state alone. about
// says what the secret is for; Unseal must be told the same. It wraps ErrUnavailable where no majority answers.
func (c *Cluster) Seal(ctx context.Context, secret []byte, about string) ([]byte, error) {
	if err := c.spreadSealKeys(ctx); err != nil {
		return nil, err
	}
	if len(c.id.SealKeys()) == 0 {
		if err := c.NewSealKey(ctx); err != nil {
			return nil, err
		}
	}
	return c.id.SealKeys()[0].Seal(secret, about)
}

// NewSealKey makes a key that Seal uses from now on; it leaves alone what was sealed before.
func (c *Cluster) NewSealKey(ctx context.Context) error {
	k := datadir.SealKey{Key: make([]byte, chacha20poly1305.KeySize), Made: c.Now().UnixMilli()}
	_, _ = rand.Read(k.Key)
	if keys := c.id.SealKeys(); len(keys) > 0 {
		k.Made = max(k.Made, keys[0].Made+1)
	}
	if err := c.learnSealKeys([]datadir.SealKey{k}); err != nil {
		return fmt.Errorf("cluster: write the identity: %w", err)
	}
	return c.spreadSealKeys(ctx)
}

// Unseal decrypts what Seal made. A node that lacks the key asks the other members for it. It wraps ErrSealed where
// none has it.
func (c *Cluster) Unseal(ctx context.Context, sealed []byte, about string) ([]byte, error) {
	name, err := datadir.SealedWith(sealed)
	if err != nil {
		return nil, err
	}
	k, has := c.id.SealKey(name)
	if !has {
		_, err := c.exchangeSealKeys(ctx, func(int) bool { k, has = c.id.SealKey(name); return has })
		if err != nil {
			return nil, err
		}
	}
	if !has {
		return nil, fmt.Errorf("%w (key %x)", ErrSealed, name)
	}
	return k.Open(sealed, about)
}
