// Nodes of hashicorp/memberlist in one process, the first of which broadcasts: measures what
// benches/fanout.rs measures of this crate, and reports it as one JSON object.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"
)

// stall is how long nothing may arrive until the rest counts as lost.
const stall = 5 * time.Second

var (
	began     = time.Now()
	delivered atomic.Int64
)

// node is a memberlist delegate that counts what it hears.
type node struct {
	queue      *memberlist.TransmitLimitedQueue
	mutex      sync.Mutex
	heard      map[uint64]bool
	next       uint64
	duplicates int
	disordered int
	latencies  []time.Duration
}

func (n *node) NodeMeta(int) []byte                  { return nil }
func (n *node) GetBroadcasts(over, max int) [][]byte { return n.queue.GetBroadcasts(over, max) }
func (n *node) LocalState(bool) []byte               { return nil }
func (n *node) MergeRemoteState([]byte, bool)        {}

func (n *node) NotifyMsg(value []byte) {
	now := time.Since(began)
	var number, sent uint64
	if _, err := fmt.Sscanf(string(value[:32]), "%16x%16x", &number, &sent); err != nil {
		log.Fatalf("a value is not stamped: %v", err)
	}
	n.mutex.Lock()
	defer n.mutex.Unlock()
	if n.heard[number] {
		n.duplicates++
		return
	}
	n.heard[number] = true
	if number < n.next {
		n.disordered++
	} else {
		n.next = number + 1
	}
	n.latencies = append(n.latencies, now-time.Duration(sent))
	delivered.Add(1)
}

type message []byte

func (m message) Invalidates(memberlist.Broadcast) bool { return false }
func (m message) Message() []byte                       { return m }
func (m message) Finished()                             {}

func cpuSeconds() float64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		log.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
}

func main() {
	nodes := flag.Int("nodes", 13, "nodes, the sender included")
	mode := flag.String("mode", "paced", "paced or flood")
	msgs := flag.Int("msgs", 400, "messages")
	rate := flag.Int("rate", 200, "messages a second, when paced")
	size := flag.Int("size", 64, "bytes of a value")
	mult := flag.Int("mult", 4, "RetransmitMult; the library's default is 4")
	flag.Bool("json", true, "print JSON, as always")
	flag.Parse()

	all := cluster(*nodes, *mult)
	start, cpu := time.Now(), cpuSeconds()
	period := time.Second / time.Duration(*rate)
	for number := 0; number < *msgs; number++ {
		if *mode == "paced" {
			time.Sleep(time.Until(start.Add(time.Duration(number) * period)))
		}
		value := fmt.Sprintf("%016x%016x", number, int64(time.Since(began)))
		value += strings.Repeat("x", max(0, *size-len(value)))
		all[0].queue.QueueBroadcast(message(value))
	}
	expected := int64(*msgs * (*nodes - 1))
	seen, since := delivered.Load(), time.Now()
	for seen < expected && time.Since(since) < stall {
		time.Sleep(time.Millisecond)
		if now := delivered.Load(); now > seen {
			seen, since = now, time.Now()
		}
	}
	report(all, *mode, *msgs, *size, expected, since.Sub(start).Seconds(), cpuSeconds()-cpu)
}

// cluster starts so many nodes, with the LAN preset, and waits until each knows all.
func cluster(size, mult int) []*node {
	var all []*node
	var lists []*memberlist.Memberlist
	for number := 1; number <= size; number++ {
		config := memberlist.DefaultLANConfig()
		config.Name = fmt.Sprintf("node%d", number)
		config.BindAddr, config.BindPort, config.AdvertisePort = "127.0.0.1", 0, 0
		config.Logger = log.New(io.Discard, "", 0)
		queue := &memberlist.TransmitLimitedQueue{RetransmitMult: mult, NumNodes: func() int { return size }}
		delegate := &node{queue: queue, heard: map[uint64]bool{}}
		config.Delegate = delegate
		list, err := memberlist.Create(config)
		if err != nil {
			log.Fatal(err)
		}
		if number > 1 {
			if _, err := list.Join([]string{lists[0].LocalNode().Address()}); err != nil {
				log.Fatal(err)
			}
		}
		all, lists = append(all, delegate), append(lists, list)
	}
	for _, list := range lists {
		for list.NumMembers() < size {
			time.Sleep(10 * time.Millisecond)
		}
	}
	return all
}

func report(all []*node, mode string, msgs, size int, expected int64, seconds, cpu float64) {
	duplicates, disordered := 0, 0
	var latencies []time.Duration
	for _, node := range all {
		node.mutex.Lock()
		defer node.mutex.Unlock()
		duplicates += node.duplicates
		disordered += node.disordered
		latencies = append(latencies, node.latencies...)
	}
	sort.Slice(latencies, func(i, j int) bool { return latencies[i] < latencies[j] })
	got := delivered.Load()
	out := map[string]any{
		"system": "memberlist", "mode": mode, "receivers": len(all) - 1, "senders": 1, "msgs": msgs, "size": size,
		"expected": expected, "delivered": got, "duplicates": duplicates, "disordered": disordered,
		"seconds": seconds, "deliveries_per_second": float64(got) / seconds,
		"cpu_seconds_per_million": cpu * 1e6 / float64(max(1, got)),
	}
	if mode == "paced" && len(latencies) > 0 {
		at := func(share float64) float64 {
			return latencies[int(share*float64(len(latencies)-1))].Seconds() * 1000
		}
		out["latency_ms"] = map[string]float64{"p50": at(0.5), "p99": at(0.99), "max": at(1)}
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		log.Fatal(err)
	}
}
