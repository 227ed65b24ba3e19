using Tunnel.Dataplane;
using Tunnel.Wire;

namespace Tunnel.Control.Paths;

/// <summary>
/// Whether IPsec policies may apply to GRE or GRE-in-UDP between two hosts, which would pass unprotected where the kernel does not send it. Ports, devices and
/// priorities of policies are not looked at: what may apply counts.
/// </summary>
internal static class XfrmJudgement
{
    /// <summary>Finds what applies to packets of a flow; null where nothing does.</summary>
    public static string? FindHindrance(XfrmPolicies policies, UnderlayFlow flow)
    {
        if (policies.BlocksIn || policies.BlocksOut)
        {
            return $"IPsec: the default policy blocks what this host {(policies.BlocksIn ? "receives" : "sends")} (ip xfrm policy getdefault)";
        }

        foreach (XfrmPolicy policy in policies.Policies)
        {
            (InetAddress from, InetAddress to) = policy.Direction == XfrmDirection.In ? (flow.Endpoint, flow.Local) : (flow.Local, flow.Endpoint);
            if ((policy.IsBlock || policy.HasTemplates) && (policy.Protocol == 0 || policy.Protocol == flow.Protocol) &&
                policy.Source.Contains(from) && policy.Destination.Contains(to))
            {
                return $"IPsec: a policy {(policy.IsBlock ? "blocks" : "covers")} {from} -> {to} (ip xfrm policy)";
            }
        }

        return null;
    }
}
