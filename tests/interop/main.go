// A node of a broadcast cluster that is built on hashicorp/memberlist, with its default configuration
// unless flags say otherwise.
//
// It prints what happens as JSON, one object a line, and obeys the lines it reads:
//
//	send KEY VALUE              broadcast {"key":KEY,"value":VALUE}; KEY may have blanks
//	gossip BASE64               broadcast these bytes
//	best-effort BASE64          send these bytes to each other member in a packet
//	reliable BASE64             … in a stream
//	members                     print who is there
//	meta TEXT                   change this node's metadata
//	key add|use|remove BASE64   change the keyring
//	keys                        print how many keys there are
//	leave                       say good-bye to the others
//	quit                        end; so does the end of the input
//
// As a sender it also broadcasts by itself: every interval, one more than the value it heard last.
package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

// message is what travels: a JSON object. Fields of others are ignored.
type message struct {
	Key   string          `json:"key"`
	Value json.RawMessage `json:"value"`
}

// event is one line of the output.
type event struct {
	Event    string   `json:"event"`
	Member   string   `json:"member,omitempty"`
	Addr     string   `json:"addr,omitempty"`
	Claimant string   `json:"claimant,omitempty"`
	Meta     string   `json:"meta,omitempty"`
	Members  []string `json:"members,omitempty"`
	Count    int      `json:"count,omitempty"`
	*message
	Raw  string `json:"raw,omitempty"`
	Line string `json:"line,omitempty"`
}

// output prints events, from any goroutine.
type output struct {
	mu    sync.Mutex
	lines *json.Encoder
}

func (o *output) print(e event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.lines.Encode(e); err != nil {
		os.Exit(1) // Nobody reads it any longer.
	}
}

// Write takes memberlist's own log, a line at a time.
func (o *output) Write(line []byte) (int, error) {
	o.print(event{Event: "log", Line: strings.TrimSpace(string(line))})
	return len(line), nil
}

// node is memberlist's delegate: for messages, for members, and for conflicts about names.
type node struct {
	name  string
	out   *output
	queue memberlist.TransmitLimitedQueue
	next  atomic.Uint64
	meta  atomic.Value
	keys  *memberlist.Keyring
}

func (n *node) send(m message) {
	raw, err := json.Marshal(m)
	if err != nil {
		panic(err) // Text and a number can always be encoded.
	}
	n.out.print(event{Event: "send", message: &m})
	n.queue.QueueBroadcast(&broadcast{message: m, raw: raw, out: n.out})
}

func (n *node) NotifyMsg(raw []byte) {
	var m message
	if err := json.Unmarshal(raw, &m); err != nil {
		n.out.print(event{Event: "unreadable", Raw: string(raw), Line: err.Error()})
		return
	}
	if value, err := strconv.ParseUint(string(m.Value), 10, 64); err == nil {
		n.next.Store(value + 1)
	}
	n.out.print(event{Event: "received", message: &m, Raw: string(raw)})
}

func (n *node) GetBroadcasts(overhead, limit int) [][]byte {
	return n.queue.GetBroadcasts(overhead, limit)
}

func (n *node) NodeMeta(int) []byte             { return []byte(n.meta.Load().(string)) }
func (n *node) LocalState(bool) []byte          { return nil }
func (n *node) MergeRemoteState([]byte, bool)   {}
func (n *node) NotifyJoin(m *memberlist.Node)   { n.noticed("joined", m) }
func (n *node) NotifyUpdate(m *memberlist.Node) { n.noticed("updated", m) }

// NotifyLeave is not told whether the member has left or failed.
func (n *node) NotifyLeave(m *memberlist.Node) { n.noticed("gone", m) }

func (n *node) noticed(what string, m *memberlist.Node) {
	if m.Name != n.name {
		n.out.print(event{Event: what, Member: m.Name, Addr: m.Address(), Meta: string(m.Meta)})
	}
}

func (n *node) NotifyConflict(existing, other *memberlist.Node) {
	n.out.print(event{Event: "conflict", Member: existing.Name, Addr: existing.Address(), Claimant: other.Address()})
}

// broadcast is a message in the queue. None makes another one superfluous.
type broadcast struct {
	message
	raw []byte
	out *output
}

func (b *broadcast) Message() []byte                       { return b.raw }
func (b *broadcast) Invalidates(memberlist.Broadcast) bool { return false }

// Finished is called when it has been transmitted as often as the queue's limit says.
func (b *broadcast) Finished() {
	b.out.print(event{Event: "transmitted", message: &b.message})
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run() error {
	name := flag.String("name", "go", "unique `name` in the cluster")
	bind := flag.String("bind", "0.0.0.0:7946", "`address` to listen on; port 0 lets the system choose")
	join := flag.String("join", "", "comma-separated `addresses` to join through")
	preset := flag.String("preset", "local", "memberlist's defaults: local or lan")
	role := flag.String("role", "receiver", "receiver, or sender")
	interval := flag.Duration("interval", 3*time.Second, "a sender's period")
	retransmit := flag.Int("retransmit", 0, "RetransmitMult of the broadcasts; 0 for that of the preset")
	meta := flag.String("meta", "", "what it tells about itself")
	compression := flag.Bool("compression", true, "EnableCompression")
	keys := flag.String("keys", "", "comma-separated secret `keys`, in base64; the first is the primary one")
	label := flag.String("label", "", "Label, where this memberlist has it")
	incoming := flag.Bool("verify-incoming", true, "GossipVerifyIncoming")
	outgoing := flag.Bool("verify-outgoing", true, "GossipVerifyOutgoing")
	probe := flag.Duration("probe-interval", 0, "ProbeInterval; ProbeTimeout is half of it; 0 for those of the preset")
	gossip := flag.Duration("gossip-interval", 0, "GossipInterval; 0 for that of the preset")
	flag.Parse()

	var conf *memberlist.Config
	switch *preset {
	case "local":
		conf = memberlist.DefaultLocalConfig()
	case "lan":
		conf = memberlist.DefaultLANConfig()
	default:
		return fmt.Errorf("-preset = %q: it must be local or lan", *preset)
	}
	host, port, err := net.SplitHostPort(*bind)
	if err != nil {
		return fmt.Errorf("-bind = %q: %w", *bind, err)
	}
	if conf.BindPort, err = strconv.Atoi(port); err != nil {
		return fmt.Errorf("-bind = %q: %w", *bind, err)
	}
	conf.BindAddr, conf.AdvertisePort, conf.Name = host, conf.BindPort, *name
	conf.EnableCompression, conf.GossipVerifyIncoming, conf.GossipVerifyOutgoing = *compression, *incoming, *outgoing
	if *probe != 0 {
		conf.ProbeInterval, conf.ProbeTimeout = *probe, *probe/2
	}
	if *gossip != 0 {
		conf.GossipInterval = *gossip
	}
	if *label != "" {
		if err := setLabel(conf, *label); err != nil {
			return err
		}
	}
	if conf.Keyring, err = keyring(*keys); err != nil {
		return fmt.Errorf("-keys: %w", err)
	}
	if *role != "receiver" && *role != "sender" {
		return fmt.Errorf("-role = %q: it must be receiver or sender", *role)
	}

	out := &output{lines: json.NewEncoder(os.Stdout)}
	n := &node{name: *name, out: out, keys: conf.Keyring}
	n.meta.Store(*meta)
	conf.Delegate, conf.Events, conf.Conflict, conf.LogOutput = n, n, n, out
	list, err := memberlist.Create(conf)
	if err != nil {
		return err
	}
	defer list.Shutdown()
	n.queue.NumNodes = list.NumMembers
	n.queue.RetransmitMult = conf.RetransmitMult
	if *retransmit != 0 {
		n.queue.RetransmitMult = *retransmit
	}
	out.print(event{Event: "listening", Addr: list.LocalNode().Address()})

	if *join != "" {
		if _, err := list.Join(strings.Split(*join, ",")); err != nil {
			return err
		}
	}

	var turns <-chan time.Time
	if *role == "sender" {
		ticker := time.NewTicker(*interval)
		defer ticker.Stop()
		turns = ticker.C
	}
	commands := make(chan string)
	go func() {
		lines := bufio.NewScanner(os.Stdin)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			commands <- lines.Text()
		}
		close(commands)
	}()
	for {
		select {
		case <-turns:
			n.send(message{Key: "I am " + *name, Value: strconv.AppendUint(nil, n.next.Load(), 10)})
		case command, more := <-commands:
			if !more || command == "quit" {
				return nil
			}
			if err := n.obey(command, list); err != nil {
				out.print(event{Event: "refused", Line: command + ": " + err.Error()})
			}
		}
	}
}

func (n *node) obey(command string, list *memberlist.Memberlist) error {
	verb, rest, _ := strings.Cut(command, " ")
	switch verb {
	case "send":
		end := strings.LastIndexByte(rest, ' ')
		value, err := strconv.ParseUint(rest[end+1:], 10, 64)
		if err != nil || end < 0 {
			return fmt.Errorf("write: send KEY VALUE, with a number as the value")
		}
		n.send(message{Key: rest[:end], Value: strconv.AppendUint(nil, value, 10)})
	case "gossip", "best-effort", "reliable":
		raw, err := base64.StdEncoding.DecodeString(rest)
		if err != nil {
			return err
		}
		return n.say(verb, raw, list)
	case "members":
		var members []string
		for _, member := range list.Members() {
			members = append(members, member.Name)
		}
		sort.Strings(members)
		n.out.print(event{Event: "members", Members: members})
	case "meta":
		n.meta.Store(rest)
		return list.UpdateNode(10 * time.Second)
	case "key":
		return n.change(rest)
	case "keys":
		n.out.print(event{Event: "keys", Count: len(n.keys.GetKeys())})
	case "leave":
		// The others need a moment to hear of it.
		if err := list.Leave(10 * time.Second); err != nil {
			return err
		}
		n.out.print(event{Event: "left"})
	default:
		return fmt.Errorf("there is no such command")
	}
	return nil
}

// say sends bytes that are this application's own, in one of memberlist's ways.
func (n *node) say(how string, raw []byte, list *memberlist.Memberlist) error {
	if how == "gossip" {
		n.queue.QueueBroadcast(&broadcast{raw: raw, out: n.out})
		return nil
	}
	for _, member := range list.Members() {
		send := list.SendBestEffort
		if how == "reliable" {
			send = list.SendReliable
		}
		if member.Name == n.name {
			continue
		}
		if err := send(member, raw); err != nil {
			return err
		}
	}
	return nil
}

func keyring(text string) (*memberlist.Keyring, error) {
	var keys [][]byte
	for _, text := range strings.FieldsFunc(text, func(c rune) bool { return c == ',' }) {
		key, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, nil
	}
	return memberlist.NewKeyring(keys, keys[0])
}

func (n *node) change(command string) error {
	verb, text, _ := strings.Cut(command, " ")
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return err
	}
	changes := map[string]func([]byte) error{
		"add":    n.keys.AddKey,
		"use":    n.keys.UseKey,
		"remove": n.keys.RemoveKey,
	}
	change, ok := changes[verb]
	if !ok {
		return fmt.Errorf("write: key add, use or remove BASE64")
	}
	if err := change(key); err != nil {
		return err
	}
	n.out.print(event{Event: "key", Line: verb})
	return nil
}
