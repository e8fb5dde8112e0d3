# shellcheck shell=bash
# Who used the processors: source "$K8S_LIB/cpu.sh" after scenario.sh.
#
#   cpu_note BEFORE; ...; cpu_note AFTER; cpu_table BEFORE AFTER
#
# Counts every process of the cluster with the children that it has waited for, so nothing short-lived is lost, but for what
# was killed together with its parent. A User-Mode Linux guest counts as one: what runs in it cannot be seen from outside.

# The group of a process, from its command line and the machine that it belongs to.
cpu_group() { # machine program first-argument
  case $1/$2 in
    */ballast) echo "ballast: $3" ;;
    uml*) echo "guest $1 with all that runs there" ;;
    control/etcd | control/kube-*) echo "Kubernetes control plane: $2" ;;
    control/*) echo "Kubernetes control plane: other" ;;
    */kubelet | */kube-proxy) echo "nodes: $2" ;;
    */containerd*) echo "nodes: containerd and its shims" ;;
    *) echo "nodes: runc, network plugins, other" ;;
  esac
}

cpu_note() { # file: one line for each process: its number, its group, the hundredths of a second it has used
  local process machine program argument stat fields branch machines=''
  for machine in control $ALL_NODES; do machines+=" $machine:$(machine_pid "$machine")"; done
  for process in /proc/[0-9]*; do
    { mapfile -d '' -n 3 -t command <"$process/cmdline" && read -r stat <"$process/stat"; } 2>/dev/null || continue
    # What has no command line is the system's kernel, or has ended.
    [ ${#command[@]} -gt 0 ] || continue
    program=${command[0]##*/} argument=${command[1]:-}
    if [ "$program" = ballast ]; then
      # Its container has process numbers of its own; its control group says whose it is.
      read -r -d '' branch <"$process/cgroup" 2>/dev/null || true
      [[ $branch == *"ballast-k8s-$ID/"* ]] || continue
      machine=pod
    else
      for machine in $machines none; do
        [ "$machine" = none ] || [ ! "$process/ns/pid" -ef "/proc/${machine#*:}/ns/pid" ] || break
      done
      [ "$machine" != none ] || continue
    fi
    # Behind the name, which may hold anything: fields 14 to 17 of proc(5).
    read -ra fields <<<"${stat##*) }"
    printf '%s\t%s\t%s\n' "${process#/proc/}" "$(cpu_group "${machine%%:*}" "$program" "$argument")" \
      $((fields[11] + fields[12] + fields[13] + fields[14]))
  done >"$1"
  awk '/^cpu / {print "all\tall processors\t" $2 + $3 + $4 + $7 + $8}' /proc/stat >>"$1"
}

cpu_table() { # before after: seconds for each group, and its share
  awk -F'\t' '
    NR == FNR { before[$1] = $3; next }
    { used = $3 - before[$1]; if (used < 0) used = 0 }
    $1 == "all" { busy = used; next }
    { group[$2] += used; sum += used }
    END {
      for (name in group) if (group[name] > 0) printf "  %7.1f s  %5.1f %%  %s\n", group[name] / 100, 100 * group[name] / sum, name | "sort -k1,1nr"
      close("sort -k1,1nr")
      printf "  %7.1f s  100.0 %%  the cluster; all processors together were busy for %.1f s\n", sum / 100, busy / 100
    }' "$1" "$2"
}
