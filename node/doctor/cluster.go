package doctor

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// Bounds of the cluster's conditions.
const (
	lagMost    = 1000            // entries behind the leader
	offsetMost = 5 * time.Second // of a clock
	drainMost  = time.Hour       // that a node stays drained

	agreeWithin = time.Minute // of a node's start
)

func clusterConditions() []condition {
	return []condition{
		{
			"quorum", "a majority of the nodes is up and has a leader",
			"the cluster takes no mail: too few nodes are up, or none leads",
			"start the nodes that are down; 'relayctl status' names them", judgeQuorum,
		},
		{
			"redundancy", "a node may fail",
			"no node may fail: without it the cluster would stop",
			"relayctl node token", judgeRedundancy,
		},
		{
			"node-silent", "every node answers",
			"a node does not answer",
			"look at the node and the link to it, then 'relayctl status'", judgeSilent,
		},
		{"node-dead", "no node is dead", "a node is dead", "start it", judgeDead},
		{
			"node-unready", "every node takes traffic",
			"a node is up and takes no traffic",
			"read the log of the node", judgeUnready,
		},
		{
			"node-lagging", "every node has caught up",
			"a node is far behind the leader",
			"wait; if it stays behind, look at its disk and its link", judgeLag,
		},
	}
}

// agreementConditions are about what the nodes have to agree on.
func agreementConditions() []condition {
	return []condition{
		{
			"node-clock", "the nodes' clocks are right",
			"a node's clock is wrong",
			"set the clock of the node (chrony, systemd-timesyncd)", judgeOffset,
		},
		{
			"time-agreement", "a majority of the clocks agree with the cluster's time",
			"the clocks do not agree: nothing is deleted or given up for its age meanwhile",
			"set the clocks of the nodes (chrony, systemd-timesyncd)", judgeAgreement,
		},
		{
			"divergence", "this node's state is the others'",
			"this node's state differs from the others', and it has given up its rights",
			"stop it, move its data directory away, and join it anew with 'relayd join'", judgeDiverged,
		},
		{
			"node-drained", "no node was left drained",
			"a node has been out of service for long",
			"relayctl node undrain ID", judgeDrained,
		},
		{
			"version-mix", "all nodes run the same version",
			"the nodes run different versions",
			"install the same version on all nodes, one after the other", judgeVersions,
		},
		{
			"upgrade-held", "nothing holds the cluster version",
			"the cluster version is held back",
			"relayctl cluster upgrade --release", judgeUpgrade,
		},
		{
			"ca-rotation", "no change of the CA is held up",
			"a change of the cluster's CA does not go on",
			"start the node that is waited for, or: relayctl cluster rotate-ca --without ID --dry-run", judgeRotation,
		},
	}
}

func judgeQuorum(f *Facts, v *verdict) {
	m, ok := need(v, f.Members)
	if !ok {
		return
	}
	if m.Leader == "" {
		v.add(Error, "no node leads")
	}
	if least := m.Voters/2 + 1; m.UpVoters < least {
		v.add(Error, "%d of %d voting nodes %s, and %d are needed", m.UpVoters, m.Voters, answer(m.UpVoters), least)
	} else {
		v.note("%d of %d voting nodes %s", m.UpVoters, m.Voters, answer(m.UpVoters))
	}
	for _, n := range m.Nodes {
		if n.State == Dead && v.Severity == Error {
			v.next("start node %s", n.ID)
		}
	}
}

func answer(n int) string {
	if n == 1 {
		return "answers"
	}
	return "answer"
}

func judgeRedundancy(f *Facts, v *verdict) {
	m, ok := need(v, f.Members)
	if !ok {
		return
	}
	spare := m.UpVoters - (m.Voters/2 + 1)
	if spare > 0 {
		v.note("%d of %d voting nodes may fail", spare, m.Voters)
		return
	}
	v.add(Warning, "%d of %d voting nodes are up, and %d are needed", m.UpVoters, m.Voters, m.Voters/2+1)
	if m.UpVoters < m.Voters {
		v.next("start the nodes that are down; 'relayctl status' names them")
	}
	v.next("make a token with 'relayctl node token', then join further nodes with 'relayd join': three can lose one")
}

// eachNode judges every node.
func eachNode(f *Facts, v *verdict, judge func(n Member)) {
	m, ok := need(v, f.Members)
	for _, n := range m.Nodes {
		if ok {
			judge(n)
		}
	}
}

func judgeSilent(f *Facts, v *verdict) {
	eachNode(f, v, func(n Member) {
		if n.State == Silent {
			v.add(Warning, "node %s has not answered for %s", n.ID, span(n.Silent))
		}
	})
}

func judgeDead(f *Facts, v *verdict) {
	eachNode(f, v, func(n Member) {
		if n.State == Dead && n.Silent > 0 {
			v.add(Error, "node %s has not been heard of for %s", n.ID, span(n.Silent))
			v.next("start node %s; if it is lost for good: relayctl node rm %s --dry-run", n.ID, n.ID)
		}
	})
}

func judgeUnready(f *Facts, v *verdict) {
	eachNode(f, v, func(n Member) {
		switch {
		case n.Silent > 0 || !n.DrainedAt.IsZero():
		case n.NotReady != "":
			v.add(Warning, "node %s: %s", n.ID, n.NotReady)
		case !n.Live:
			v.add(Warning, "node %s has no session", n.ID)
		}
	})
}

func judgeLag(f *Facts, v *verdict) {
	eachNode(f, v, func(n Member) {
		switch {
		case n.Silent > 0:
			v.add(Unknown, "node %s does not answer", n.ID)
		case n.Lag > lagMost:
			v.add(Warning, "node %s is %d entries behind", n.ID, n.Lag)
		}
	})
}

func judgeOffset(f *Facts, v *verdict) {
	eachNode(f, v, func(n Member) {
		if n.Offset.Abs() > offsetMost {
			way := "ahead of"
			if n.Offset < 0 {
				way = "behind"
			}
			v.add(Warning, "node %s's clock is %s %s the cluster's", n.ID, span(n.Offset), way)
		}
	})
}

func judgeAgreement(f *Facts, v *verdict) {
	c, ok := need(v, f.Clock)
	switch {
	case !ok || c.Agreement:
	case c.Up < agreeWithin:
		v.add(Unknown, "this node has run for %s, and has not heard of a majority's clocks yet", span(c.Up))
	default:
		v.add(Warning, "fewer than a majority of the clocks agree with the cluster's time")
	}
	if ok && c.Jumps > 0 {
		v.note("the cluster's time has jumped %d times since this node's start", c.Jumps)
	}
}

func judgeDiverged(f *Facts, v *verdict) {
	if how, ok := need(v, f.Diverged); ok && how != "" {
		v.add(Error, "%s", how)
	}
}

func judgeDrained(f *Facts, v *verdict) {
	eachNode(f, v, func(n Member) {
		if since := f.Now.Sub(n.DrainedAt); !n.DrainedAt.IsZero() && since > drainMost {
			v.add(Warning, "node %s was drained %s ago", n.ID, span(since))
			v.next("relayctl node undrain %s", n.ID)
		}
	})
}

func judgeVersions(f *Facts, v *verdict) {
	m, ok := need(v, f.Members)
	if !ok {
		return
	}
	by := map[string][]string{}
	for _, n := range m.Nodes {
		if n.Version != "" {
			by[n.Version] = append(by[n.Version], n.ID)
		}
	}
	for _, version := range slices.Sorted(maps.Keys(by)) {
		nodes := strings.Join(by[version], ", ")
		if len(by) > 1 {
			v.add(Warning, "%s: %s", version, nodes)
		} else {
			v.note("%s: %s", version, nodes)
		}
	}
	if len(by) == 0 {
		v.add(Unknown, "no node has said its version")
	}
}

func judgeUpgrade(f *Facts, v *verdict) {
	u, ok := need(v, f.Upgrade)
	switch {
	case !ok || u.Words == "":
	case u.Held:
		v.add(Warning, "%s", u.Words)
	case len(u.Down) > 0:
		v.add(Warning, "%s", u.Words)
		v.next("start %s", strings.Join(u.Down, ", "))
	default:
		v.note("%s", u.Words)
	}
}

func judgeRotation(f *Facts, v *verdict) {
	if why, ok := need(v, f.Rotation); ok && why != "" {
		v.add(Warning, "%s", why)
	}
}
